package e2e

import (
	"os"
	"testing"
)

// soaking says that there is time: make soak.
var soaking = os.Getenv("QUORATE_SOAK") != ""

// soak skips a test that takes long, unless there is time.
func soak(t *testing.T) {
	t.Helper()
	if !soaking {
		t.Skip("NOT RUN: it takes minutes; make soak runs it")
	}
}
