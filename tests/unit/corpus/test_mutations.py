from tests.corpus.mutations import mutate, mutations


def test_mutation_can_be_made_again_alone():
    assert list(mutations(30, seed=1))[29] == mutate(29, seed=1) != mutate(29, seed=2)
