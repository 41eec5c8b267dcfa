package search

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"kemi/pipeline/store"
	"kemi/pipeline/storetest"
)

func TestMain(m *testing.M) {
	crashChild()
	goleak.VerifyTestMain(m)
}

func testConfig(dir string) Config {
	c := DefaultConfig()
	c.Dir = dir
	c.MinFreeBytes = 0
	return c
}

func mustOpen(tb testing.TB, c Config, o Options) *Index {
	tb.Helper()
	x, err := Open(c, o)
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

func TestLogs(t *testing.T) {
	storetest.Logs(t, func(tb testing.TB, dir string) store.LogStore { return mustOpen(tb, testConfig(dir), Options{}) })
}

// TestLogsSmall writes all the time and begins slices often.
func TestLogsSmall(t *testing.T) {
	storetest.Logs(t, func(tb testing.TB, dir string) store.LogStore {
		c := testConfig(dir)
		c.BufferBytes, c.FlushInterval, c.SliceBytes = 16<<10, 10*time.Millisecond, 64<<10
		return mustOpen(tb, c, Options{})
	})
}

func BenchmarkLogs(b *testing.B) {
	storetest.BenchLogs(b, func(tb testing.TB, dir string) store.LogStore { return mustOpen(tb, testConfig(dir), Options{}) })
}
