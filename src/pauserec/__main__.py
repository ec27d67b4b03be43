"""`python -m pauserec`."""

from pauserec.cli import main

main()
