package app

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kemi/pipeline/bus"
	"kemi/pipeline/wal"
)

// folderBytes is how large the files in a folder are together.
func folderBytes(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // the server deletes files meanwhile
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func post(t *testing.T, a *App, path, body string) {
	t.Helper()
	resp, err := http.Post("http://"+a.Addr()+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatal(resp.Status)
	}
}

// TestLogIsTrimmed: soon after the last record has come the log of record holds next to nothing, as the stores have all of it; a start without it answers the same. With
// topicRetention as it is for other topics it keeps all.
func TestLogIsTrimmed(t *testing.T) {
	const batches, lines, samples = 40, 1000, 2500
	fill := func(a *App) (at int64) {
		at = time.Now().Add(-time.Minute).Unix()
		for i := range batches {
			var logs, points strings.Builder
			for j := range lines {
				fmt.Fprintf(&logs, `{"service":"pay","msg":"order %d of %d was paid with card %x in %d ms"}`+"\n", j, i, j*7919*i, j%97)
			}
			for j := range samples {
				fmt.Fprintf(&points, `,{"metric":"m","timestamp":%d,"value":%d,"tags":{"host":"h%d"}}`, at+int64(i), i, j)
			}
			post(t, a, "/api/v2/logs", logs.String())
			post(t, a, "/api/put", "["+points.String()[1:]+"]")
		}
		return at
	}
	count := func(a *App, at int64) string {
		t.Helper()
		status, metrics := get(t, a, fmt.Sprintf("/api/v1/query?query=sum(count_over_time(m[5m]))&time=%d", at+60), "")
		status2, found := get(t, a, fmt.Sprintf("/api/v2/logs/query?query=service:pay&start=1h-ago&end=now&limit=%d&format=ndjson", batches*lines+1), "")
		if status != http.StatusOK || status2 != http.StatusOK {
			t.Fatal(status, metrics, status2, found)
		}
		_, value, _ := strings.Cut(metrics, `"value":`)
		return fmt.Sprint(value[:min(len(value), 40)], " ", strings.Count(found, `"body":"order `))
	}
	for _, keeps := range []bool{false, true} {
		c := config(t)
		c.Dev, c.Logs.FlushInterval, c.Metrics.Checkpoint = true, 100*time.Millisecond, time.Second
		for topic, r := range c.Bus.TopicRetention {
			r.ConsumedBytes = 100 << 10
			c.Bus.TopicRetention[topic] = r
		}
		if keeps {
			c.Bus.TopicRetention = map[string]wal.TopicRetention{bus.Metrics: {}, bus.Logs: {}}
		}
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
		at := fill(a)
		folder := filepath.Join(c.Data, "bus")
		const little = 2*100<<10 + 64<<10 // consumedBytes of two topics, positions, other topics
		if keeps {
			eventually(t, "all groups have committed all", func() bool {
				_, text := get(t, a, "/metrics", "")
				lags := 0
				for line := range strings.Lines(text) {
					if strings.HasPrefix(line, "kemi_pipeline_wal_group_lag_records{") && (strings.Contains(line, `topic="logs"`) || strings.Contains(line, `topic="metrics"`)) {
						if lags++; !strings.HasSuffix(line, " 0\n") {
							return false
						}
					}
				}
				return lags == 3 // series, index, alerting
			})
			if n := folderBytes(t, folder); n < 2*little {
				t.Fatalf("the log has %d bytes", n)
			}
		} else {
			eventually(t, "the log is trimmed", func() bool { return folderBytes(t, folder) <= little })
		}
		want := fmt.Sprint(batches * lines)
		before := count(a, at)
		if !strings.Contains(before, fmt.Sprintf(`"%d"`, batches*samples)) || !strings.HasSuffix(before, want) {
			t.Fatalf("before the restart: %s", before)
		}
		if err := a.Stop(); err != nil {
			t.Fatal(err)
		}
		a = begin()
		eventually(t, "complete", func() bool {
			status, _ := get(t, a, "/readyz?complete", "")
			return status == http.StatusOK
		})
		if after := count(a, at); after != before {
			t.Errorf("after a restart %s, before %s", after, before)
		}
		if err := a.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}
