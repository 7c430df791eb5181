def test_x(alone):
    for o in alone.values():
        print([list(r.history["total"][:3]) for r in o])
