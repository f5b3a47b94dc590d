// Package e2e tests clusters of real processes from outside, as their users meet them: over NATS, with signals, and with what is on their disks.
package e2e

import (
	"os"
	"testing"

	"github.com/quorate/quorate/internal/testcluster"
)

func TestMain(m *testing.M) {
	code := m.Run()
	testcluster.CleanUp()
	os.Exit(code)
}
