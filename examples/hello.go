package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Println("hello from Go,", len(os.Args)-1, "arguments")
}
