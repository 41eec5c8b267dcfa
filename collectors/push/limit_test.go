package push

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/codec"
)

// fullStore has room for a few series, and knows some.
type fullStore struct {
	left  int
	known map[string]bool
}

func (s *fullStore) Room(project string, _ kemi.Labels) error {
	if s.left--; s.left < 0 {
		return kemi.Errorf(kemi.ErrLimited, "the limit of 2 active series of project %s is reached: label \"id\" has 2 values", project)
	}
	return nil
}

func (s *fullStore) Has(_ string, ls kemi.Labels) bool { return s.known[ls.Get(kemi.MetricName)] }

// TestSeriesLimit: with no room for more series, known ones of a request are taken, the others are answered with 429, and counted exactly.
func TestSeriesLimit(t *testing.T) {
	at := []kemi.Millis{kemi.MillisOf(time.Now())}
	point := func(name string) kemi.Points {
		return kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, name, "id", "x"), At: at, Values: []float64{1}}
	}
	for _, v1 := range []bool{true, false} {
		s := &fullStore{left: 2, known: map[string]bool{"stored": true}}
		h := openHouse(t, func(o *Options) { o.Series = s })
		send := func(names ...string) (int, string, http.Header) {
			e := codec.Encoder{V1: v1}
			for _, n := range names {
				e.AddPoints(point(n))
			}
			return h.post("/api/v1/write", e.Encode(), "Content-Type", e.ContentType(), "Content-Encoding", "snappy")
		}
		if code, text, _ := send("a", "b"); code != http.StatusNoContent {
			t.Fatalf("%d %s", code, text)
		}
		code, text, head := send("a", "c", "stored", "d", "b")
		if code != http.StatusTooManyRequests || head.Get("Retry-After") != "60" ||
			!strings.Contains(text, `2 samples, 2 new series refused; 3 samples, 0 histograms, 0 exemplars stored: the limit of 2 active series of project shop is reached: label "id"`) {
			t.Fatalf("%d %q %v", code, text, head)
		}
		if head.Get("X-Kemi-Series-Over-Limit") != "2" || !v1 && head.Get("X-Prometheus-Remote-Write-Samples-Written") != "3" {
			t.Errorf("headers %v", head)
		}
		// Something wrong beside it: then coming again does not help.
		if code, text, _ = send("a", "e", ""); code != http.StatusBadRequest || !strings.Contains(text, "the limit of 2") || !strings.Contains(text, "__name__") {
			t.Fatalf("%d %q", code, text)
		}
		n := 0
		table := codec.NewTable(nil, time.Now)
		for _, r := range h.records() {
			b, err := table.Decode(&r)
			if err != nil {
				t.Fatal(err)
			}
			for i := range b.Series {
				if name := b.Labels(i).Get(kemi.MetricName); name == "c" || name == "d" || name == "e" {
					t.Errorf("%s is in the log", name)
				}
				n++
			}
		}
		if n != 6 {
			t.Errorf("%d samples in the log, want 6", n)
		}
	}
}

// TestPutOverSeriesLimit: each point of /api/put is accounted for.
func TestPutOverSeriesLimit(t *testing.T) {
	h := openHouse(t, func(o *Options) { o.Series = &fullStore{left: 1} })
	body := `[{"metric":"a","timestamp":1700000000,"value":1,"tags":{"h":"x"}},{"metric":"b","timestamp":1700000000,"value":1,"tags":{"h":"x"}}]`
	code, text, _ := h.post("/api/put?details", []byte(body))
	if code != http.StatusTooManyRequests || !strings.Contains(text, `"success":1`) || !strings.Contains(text, `"failed":1`) || !strings.Contains(text, "the limit of 2 active series") {
		t.Fatalf("%d %s", code, text)
	}
	if code, text, header := h.post("/api/put", []byte(body)); code != http.StatusTooManyRequests || header.Get("Retry-After") != "60" || !strings.Contains(text, "the limit of 2 active series") {
		t.Fatalf("%d %v %s", code, header, text)
	}
	// Something else is wrong as well: to send it again does not help.
	body = `[{"metric":"a","timestamp":1700000000,"value":"x","tags":{"h":"x"}},{"metric":"b","timestamp":1700000000,"value":1,"tags":{"h":"x"}}]`
	if code, text, _ := h.post("/api/put?summary", []byte(body)); code != http.StatusBadRequest || !strings.Contains(text, `"failed":2`) {
		t.Fatalf("%d %s", code, text)
	}
}
