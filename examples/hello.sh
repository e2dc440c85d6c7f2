echo "hello from bash, $# arguments"
exit 4
