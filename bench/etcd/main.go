// Command etcd is etcd's server, built from the Go module proxy for the benchmarks; a module of its own, so that nothing of it reaches Quorate's.
// (`go install go.etcd.io/etcd/server/v3@…` refuses, because etcd's go.mod has replace directives.)
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
