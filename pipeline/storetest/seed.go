package storetest

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// Seed is what the random choices of a test begin with: KEMI_TEST_SEED, or any. The test tells it, so that a run can be repeated.
func Seed(tb testing.TB) uint64 {
	tb.Helper()
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("KEMI_TEST_SEED"), 10, 64); err == nil {
		seed = v
	}
	tb.Logf("KEMI_TEST_SEED=%d", seed)
	return seed
}

// Steps is how many steps a random test does: KEMI_TEST_STEPS, or so many.
func Steps(otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv("KEMI_TEST_STEPS")); err == nil {
		return n
	}
	return otherwise
}

// Clock stands still at a time that the seed chooses: where blocks, slots and buckets begin matters, and has to be the same when a run is repeated.
func Clock(seed uint64) func() time.Time {
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(seed%(60*24*3600e3)) * time.Millisecond)
	return func() time.Time { return at }
}
