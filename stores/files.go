package stores

import "syscall"

// mostFiles is how many state files a node has open at most, where the system allows it. Each reserves 8 GiB of address space, of which there are 128 TiB.
const mostFiles = 8000

// openFiles returns how many state files may be open in a process that may have so many descriptors: half of them. The other half is for connections, the
// log's segments and files that are open for a moment. Go raises the soft limit to the hard one at start.
func openFiles(descriptors uint64) int {
	return int(max(1, min(descriptors/2, mostFiles)))
}

// descriptorLimit returns how many descriptors this process may have, and 1024, which is little, where the system does not say.
func descriptorLimit() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return limit.Cur
}
