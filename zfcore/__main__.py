"""``python -m zfcore …`` is ``zfcore …``; torchrun starts it so: ``torchrun … -m zfcore train …``."""

from zfcore.cli import main

if __name__ == "__main__":
    main()
