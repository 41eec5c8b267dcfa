package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kemi/pipeline/bus"
	"kemi/pipeline/wal"
)

// TestLostMetrics: when the folder of the series is lost and the log of record is not, a start makes the series again from the log before it says
// that answers are complete.
func TestLostMetrics(t *testing.T) {
	c := config(t)
	c.Dev = true
	c.Bus.TopicRetention = map[string]wal.TopicRetention{bus.Metrics: {}} // keep what is consumed, so that the series can be made again
	begin := func() *App {
		a, err := New(context.Background(), c, Deps{Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := begin()
	at := time.Now().Add(-time.Minute).Unix()
	for i := range 20 {
		body := fmt.Sprintf(`{"metric":"m","timestamp":%d,"value":%d,"tags":{"host":"a"}}`, at+int64(i), i)
		resp, err := http.Post("http://"+a.Addr()+"/api/put?sync", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			t.Fatal(resp.Status)
		}
	}
	ask := func(a *App) string {
		t.Helper()
		status, body := get(t, a, fmt.Sprintf("/api/v1/query?query=count_over_time(m[5m])&time=%d", at+30), "")
		if status != http.StatusOK {
			t.Fatal(status, body)
		}
		return body
	}
	if got := ask(a); !strings.Contains(got, `"20"`) {
		t.Fatal(got)
	}
	if err := a.Stop(); err != nil {
		t.Fatal(err)
	}
	// A server that ran for longer has told the log that nothing is left to be read.
	c.complete()
	w, err := wal.Open(c.Bus, wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	latest, err := bus.Latest(t.Context(), w, bus.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.Subscribe(t.Context(), bus.Metrics, "series", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Commit(t.Context(), latest), r.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(c.Data, "metrics")); err != nil {
		t.Fatal(err)
	}
	a = begin()
	defer func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "complete", func() bool {
		status, _ := get(t, a, "/readyz?complete", "")
		return status == http.StatusOK
	})
	if got := ask(a); !strings.Contains(got, `"20"`) || strings.Contains(got, "not complete") {
		t.Fatal(got)
	}
}
