package lines

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"kemi/pipeline/store"
	"kemi/pipeline/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testConfig(dir string) Config {
	c := DefaultConfig()
	c.Dir = dir
	c.MinFreeBytes = 0
	return c
}

func mustOpen(tb testing.TB, c Config, o Options) *Store {
	tb.Helper()
	s, err := Open(c, o)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestLogs(t *testing.T) {
	storetest.Logs(t, func(tb testing.TB, dir string) store.LogStore { return mustOpen(tb, testConfig(dir), Options{}) })
}

// TestLogsSmall writes and merges all the time.
func TestLogsSmall(t *testing.T) {
	storetest.Logs(t, func(tb testing.TB, dir string) store.LogStore {
		c := testConfig(dir)
		c.BufferBytes, c.FlushInterval, c.PartBytes, c.CacheBytes = 16<<10, 10*time.Millisecond, 1<<20, 1<<20
		return mustOpen(tb, c, Options{})
	})
}

func BenchmarkLogs(b *testing.B) {
	storetest.BenchLogs(b, func(tb testing.TB, dir string) store.LogStore { return mustOpen(tb, testConfig(dir), Options{}) })
}
