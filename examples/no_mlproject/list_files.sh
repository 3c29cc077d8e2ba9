# Lists the project's files; run with `buildrun . -e list_files.sh`.
ls
