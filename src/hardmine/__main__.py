"""``python -m hardmine``: the same as the ``hardmine`` command."""

from hardmine.cli.main import main

if __name__ == "__main__":
    main()
