from cnnstudy.cli import main

main()
