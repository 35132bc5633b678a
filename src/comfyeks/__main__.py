from comfyeks.cli import main

main()
