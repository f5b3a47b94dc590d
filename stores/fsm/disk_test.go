package fsm

import (
	"syscall"
	"testing"
)

// diskUsed returns the bytes that the file takes on disk; its length also counts holes.
func diskUsed(t testing.TB, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}
