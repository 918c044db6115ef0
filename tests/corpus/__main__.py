from tests.corpus.check import main

if __name__ == "__main__":
    main()
