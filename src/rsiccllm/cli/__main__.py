"""`python -m rsiccllm.cli`, as torchrun starts it."""

from rsiccllm.cli import main

if __name__ == "__main__":
    main()
