package fsm

import (
	"syscall"
	"testing"
	"time"
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

// cpuUsed returns the processor time that this process has taken: on a machine that others use too it says more than the clock.
func cpuUsed(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
