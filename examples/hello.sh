echo "hello from bash, $# arguments"
