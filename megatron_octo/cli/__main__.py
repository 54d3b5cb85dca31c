from megatron_octo.cli import main

main()
