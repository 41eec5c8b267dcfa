//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

const remoteWriteType = "application/x-protobuf"

// remoteWrite sends one sample of a series.
func (s *server) remoteWrite(name, writer string, at time.Time, value float64) (bool, error) {
	b, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: name}, {Name: "writer", Value: writer}},
		Samples: []prompb.Sample{{Timestamp: at.UnixMilli(), Value: value}},
	}}}).Marshal()
	if err != nil {
		return false, err
	}
	status, text, err := s.try("POST", "/api/v1/write", snappy.Encode(nil, b), "Content-Type", remoteWriteType, "Content-Encoding", "snappy")
	if err != nil {
		return false, nil // the server is gone: not acknowledged
	}
	if status/100 != 2 {
		return false, fmt.Errorf("%d %s", status, text)
	}
	return true, nil
}

// trimsEagerly makes the stores durable all the time, and keeps nothing of the log of record that they have.
const trimsEagerly = `
metrics: {checkpoint: 100ms}
logs: {flushInterval: 50ms}
bus:
  topicRetention:
    metrics: {consumedBytes: 1, segmentBytes: 8192}
    logs: {consumedBytes: 1, segmentBytes: 8192}
`

// TestKillNine kills the server in the middle of ingest, several times, and then looks for everything that it had acknowledged: it is there,
// exactly once; and nothing is there that was never sent.
func TestKillNine(t *testing.T) {
	t.Run("by default", func(t *testing.T) { killNine(t, "agent: {enabled: false}\n") })
	t.Run("trimming eagerly", func(t *testing.T) { killNine(t, "agent: {enabled: false}\n"+trimsEagerly) })
}

func killNine(t *testing.T, config string) {
	s := startServer(t, filepath.Join(t.TempDir(), "data"), config)
	token := s.token
	base := time.Now().Add(-time.Hour).Truncate(time.Second)
	type writer struct {
		acked, sent int // samples number 0 … sent-1 were sent
		lost        map[int]bool
	}
	const writers = 4
	metrics, lines := make([]writer, writers), make([]writer, writers)
	for i := range writers {
		metrics[i].lost, lines[i].lost = map[int]bool{}, map[int]bool{}
	}
	for round := range 4 {
		var wg sync.WaitGroup
		stop := make(chan struct{})
		each := func(w *writer, send func(n int) (bool, error)) {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					n := w.sent
					w.sent++
					ok, err := send(n)
					if err != nil {
						t.Errorf("send: %v", err)
						return
					}
					if !ok {
						w.lost[n] = true // it may be there or not
						return
					}
					w.acked++
				}
			})
		}
		for i := range writers {
			each(&metrics[i], func(n int) (bool, error) {
				return s.remoteWrite("crash_samples", fmt.Sprint(i), base.Add(time.Duration(n)*time.Millisecond), float64(n))
			})
			each(&lines[i], func(n int) (bool, error) {
				var b strings.Builder
				for k := range 5 {
					j, _ := json.Marshal(map[string]string{"host": "crash", "_msg": fmt.Sprintf("crashline w%d n%d k%d end", i, n, k)})
					b.Write(j)
					b.WriteByte('\n')
				}
				status, text, err := s.try("POST", "/api/v2/logs", b.String(), "Content-Type", "application/x-ndjson")
				if err != nil {
					return false, nil
				}
				if status/100 != 2 {
					return false, fmt.Errorf("%d %s", status, text)
				}
				return true, nil
			})
		}
		time.Sleep(time.Duration(500+rand.IntN(1500)) * time.Millisecond) // how long ingest goes on before the kill: any time will do
		s.kill()
		close(stop)
		wg.Wait()
		t.Logf("round %d: killed after %d samples and %d batches of lines", round, metrics[0].sent, lines[0].sent)
		s.start()
	}
	s.token = token
	if t.Failed() {
		return
	}

	for i, w := range metrics {
		q := url.Values{"query": {fmt.Sprintf(`crash_samples{writer="%d"}[2h]`, i)}, "time": {fmt.Sprint(time.Now().Unix())}}
		var out struct {
			Data struct {
				Result []struct {
					Values [][2]any `json:"values"`
				} `json:"result"`
			} `json:"data"`
		}
		if err := decode(s.must("GET", "/api/v1/query?"+q.Encode(), nil), &out); err != nil {
			t.Fatal(err)
		}
		if len(out.Data.Result) != 1 {
			t.Fatalf("writer %d: %d series", i, len(out.Data.Result))
		}
		seen := map[string]bool{}
		for _, v := range out.Data.Result[0].Values {
			k := fmt.Sprint(v[1])
			if seen[k] {
				t.Errorf("writer %d: sample %s twice", i, k)
			}
			seen[k] = true
		}
		for n := range w.sent {
			if !seen[fmt.Sprint(n)] && !w.lost[n] {
				t.Errorf("writer %d: acknowledged sample %d is gone", i, n)
			}
		}
		if len(seen) > w.sent || len(seen) < w.acked {
			t.Errorf("writer %d: %d samples there, %d sent, %d acknowledged", i, len(seen), w.sent, w.acked)
		}
	}
	for i, w := range lines {
		seen := map[string]int{}
		text := s.must("GET", "/api/v2/logs/query?"+url.Values{
			"query": {fmt.Sprintf(`host:crash "crashline w%d"`, i)}, "start": {"1h-ago"}, "end": {"now"}, "limit": {"1000000"}, "order": {"asc"}, "format": {"ndjson"},
		}.Encode(), nil)
		for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
			var r struct {
				Body string `json:"body"`
			}
			if err := decode(line, &r); err != nil {
				t.Fatal(err)
			}
			if r.Body != "" { // the last line tells how complete the answer is
				seen[r.Body]++
			}
		}
		for n := range w.sent {
			for k := range 5 {
				body := fmt.Sprintf("crashline w%d n%d k%d end", i, n, k)
				switch c := seen[body]; {
				case c > 1:
					t.Errorf("%q is there %d times", body, c)
				case c == 0 && !w.lost[n]:
					t.Errorf("acknowledged %q is gone", body)
				}
			}
		}
	}
}

// TestRestartKeepsAll stops in order and starts again: everything is there, at once.
func TestRestartKeepsAll(t *testing.T) {
	s := startServer(t, filepath.Join(t.TempDir(), "data"), "agent: {enabled: false}\n")
	now := time.Now().Truncate(time.Second)
	for n := range 10 {
		if ok, err := s.remoteWrite("kept", "a", now.Add(time.Duration(n-10)*time.Second), float64(n)); !ok || err != nil {
			t.Fatalf("write: %v %v", ok, err)
		}
	}
	token := s.token
	s.stop()
	if s.err != nil {
		t.Fatalf("it did not stop well: %v", s.err)
	}
	s.start()
	if strings.Contains(s.out.String(), "kemi_") {
		t.Fatal("the second start printed a token again")
	}
	s.token = token
	status, text := s.call("GET", "/api/v1/query?query=count_over_time(kept[1h])", nil)
	if status != http.StatusOK || !strings.Contains(text, `"10"`) {
		t.Fatalf("%d %s", status, text)
	}
}
