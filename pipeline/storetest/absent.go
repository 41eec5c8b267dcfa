package storetest

import (
	"os"
	"testing"
)

// Absent ends a test that needs what this machine does not have: it skips with the reason, or fails where KEMI_TEST_NOSKIP is set, as
// in continuous integration.
func Absent(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("KEMI_TEST_NOSKIP") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
