package wal

import (
	"testing"

	"go.uber.org/goleak"

	"kemi/pipeline/bus"
	"kemi/pipeline/storetest"
)

func openBus(t testing.TB, topics map[string]int) func() bus.Bus {
	cfg := DefaultConfig()
	cfg.Dir, cfg.Topics, cfg.MaxRecordBytes = t.TempDir(), topics, 8<<20
	return func() bus.Bus {
		w, err := Open(cfg, Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.Close() })
		return w
	}
}

func TestBus(t *testing.T) {
	defer goleak.VerifyNone(t)
	t.Run("Conformance", func(t *testing.T) { storetest.Bus(t, openBus) })
}

func BenchmarkBus(b *testing.B) { storetest.BenchBus(b, openBus) }
