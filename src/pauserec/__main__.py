"""`python -m pauserec`."""

from pauserec.cli.commands import main

main()
