package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kemi"
	"kemi/sauron/client"
)

func serve(t *testing.T, h http.HandlerFunc) *client.Client {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &client.Client{URL: s.URL + "/", Token: "secret", Project: "shop", HTTP: s.Client()}
}

func TestErrors(t *testing.T) {
	for _, kind := range []error{kemi.ErrInvalid, kemi.ErrUnauthorized, kemi.ErrDenied, kemi.ErrNotFound, kemi.ErrConflict, kemi.ErrLimited, kemi.ErrUnavailable, kemi.ErrTooLarge, errors.ErrUnsupported} {
		for _, d := range []kemi.Dialect{kemi.DialectKEMI, kemi.DialectPrometheus, kemi.DialectOpenTSDB, kemi.DialectText} {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				kemi.WriteError(w, d, kemi.RetryAfter(kemi.Errorf(kind, "field x: is wrong"), 9*time.Second))
			})
			_, err := c.Query(t.Context(), []byte("{}"))
			if !errors.Is(err, kind) || err.Error() != "field x: is wrong" {
				t.Errorf("%v in dialect %d: %v", kind, d, err)
			}
			if errors.Is(kind, kemi.ErrUnavailable) && kemi.RetryDelay(err) != 9*time.Second {
				t.Errorf("retry after %s", kemi.RetryDelay(err))
			}
		}
	}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	if _, err := c.Query(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("internal: %v", err)
	}
	for _, u := range []string{"", "localhost:7070", "ftp://x", "http://", "::"} {
		if _, err := (&client.Client{URL: u}).Query(t.Context(), nil); !errors.Is(err, kemi.ErrInvalid) {
			t.Errorf("%q: %v", u, err)
		}
	}
	if _, err := (&client.Client{URL: "http://127.0.0.1:1"}).Query(t.Context(), nil); !errors.Is(err, kemi.ErrUnavailable) {
		t.Errorf("nobody there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Query(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

func TestRequests(t *testing.T) {
	var got string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got = fmt.Sprintf("%s %s %s %s %s", r.Method, r.URL, r.Header.Get("Authorization"), r.Header.Get("X-Kemi-Project"), b)
		_, _ = w.Write([]byte("answer"))
	})
	b, err := c.Query(t.Context(), []byte(`{"q":1}`))
	if err != nil || string(b) != "answer" || got != `POST /api/v2/query Bearer secret shop {"q":1}` {
		t.Errorf("%s, %v: %s", b, err, got)
	}
	if _, err := c.PromQL(t.Context(), "up", time.Time{}, time.Time{}, 0); err != nil || got != "POST /api/v1/query Bearer secret shop query=up" {
		t.Errorf("%v: %s", err, got)
	}
	if _, err := c.PromQL(t.Context(), "up", time.Unix(1, 5e8), time.Unix(9, 0), 90*time.Second); err != nil || got != "POST /api/v1/query_range Bearer secret shop end=9.000&query=up&start=1.500&step=90" {
		t.Errorf("%v: %s", err, got)
	}
	if err := c.Put(t.Context(), []client.DataPoint{{Metric: "m", Timestamp: 5, Value: "1.5", Tags: map[string]string{"a": "b"}}}); err != nil ||
		got != `POST /api/put?details=true Bearer secret shop [{"metric":"m","timestamp":5,"value":1.5,"tags":{"a":"b"}}]` {
		t.Errorf("%v: %s", err, got)
	}
}

const record = `{"id":"b~1","at":1,"ns":"1700000000123456789","time":"2023-11-14T22:13:20.123456789Z","level":"error","severity":17,"stream":{"host":"h"},"attrs":{"k":"v"},"body":"x \ufffd","bodyBase64":"eCD/","traceId":"t"}`

func TestLogs(t *testing.T) {
	var asked string
	answer := record + "\n" + strings.Replace(record, "b~1", "b~2", 1)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		_, _ = io.WriteString(w, answer)
	})
	read := func(q client.LogQuery) (out []client.Record, err error) {
		for r, e := range c.Logs(t.Context(), q) {
			if e != nil {
				return out, e
			}
			out = append(out, r)
		}
		return out, nil
	}
	rs, err := read(client.LogQuery{Query: "level:error", Start: "1h-ago", End: "now", Limit: 5, Ascending: true})
	if err != nil || len(rs) != 2 || rs[1].ID != "b~2" || rs[0].Nanos != 1_700_000_000_123_456_789 || rs[0].Text() != "x \xff" || rs[0].Stream["host"] != "h" || rs[0].Attrs["k"] != "v" || string(rs[0].Raw) != record {
		t.Errorf("%v %+v", err, rs)
	}
	if asked != "/api/v2/logs/query?end=now&format=ndjson&limit=5&order=asc&query=level%3Aerror&start=1h-ago" {
		t.Error(asked)
	}
	answer = record + "\n" + `{"error":"store gone"}` + "\n"
	if rs, err := read(client.LogQuery{}); len(rs) != 1 || !errors.Is(err, kemi.ErrUnavailable) || !strings.Contains(err.Error(), "store gone") {
		t.Errorf("%v %d", err, len(rs))
	}
	answer = record[:50]
	if _, err := read(client.LogQuery{}); !errors.Is(err, kemi.ErrUnavailable) {
		t.Errorf("half a record: %v", err)
	}
	answer = ""
	if rs, err := read(client.LogQuery{}); err != nil || len(rs) != 0 {
		t.Errorf("nothing: %v", err)
	}
	answer = strings.Repeat("x", 40<<20)
	if _, err := read(client.LogQuery{}); !errors.Is(err, kemi.ErrTooLarge) {
		t.Errorf("a huge line: %v", err)
	}
}

// TestTail: it goes on after the connection was lost, and ends when no other try would help.
func TestTail(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after the server is closed
	var n atomic.Int32
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		switch n.Add(1) {
		case 1:
			fmt.Fprintf(w, ": hello\n\nid: b~1\ndata: %s\n\nevent: dropped\ndata: {\"records\":7}\n\ndata: {\"half", record)
		case 2:
			kemi.WriteError(w, kemi.DialectKEMI, kemi.Errorf(kemi.ErrUnavailable, "starting"))
		case 3:
			fmt.Fprintf(w, "id: b~1\r\ndata: %s\r\n\r\n", record)
		default:
			kemi.WriteError(w, kemi.DialectKEMI, kemi.Errorf(kemi.ErrDenied, "no more"))
		}
	})
	defer c.HTTP.CloseIdleConnections()
	var got []string
	for e, err := range c.Tail(t.Context(), "x") {
		switch {
		case err != nil:
			got = append(got, "end: "+err.Error())
		case e.Lost != nil:
			got = append(got, "lost")
		case e.Dropped > 0:
			got = append(got, fmt.Sprint("dropped ", e.Dropped))
		default:
			got = append(got, e.Record.ID)
		}
	}
	if want := "b~1 dropped 7 lost lost b~1 lost end: no more"; strings.Join(got, " ") != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// The caller may stop, and so may the context.
	n.Store(2)
	for range c.Tail(t.Context(), "x") {
		break
	}
	n.Store(1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for e, err := range c.Tail(ctx, "x") {
		if e.Lost == nil || err != nil {
			t.Errorf("%v %v", e, err)
		}
		cancel()
	}
	n.Store(10)
	var last error
	for _, err := range c.Tail(t.Context(), "x") {
		last = err
	}
	if !errors.Is(last, kemi.ErrDenied) {
		t.Errorf("denied: %v", last)
	}
	var r client.Record
	if err := json.Unmarshal([]byte(record), &r); err != nil || r.Severity != 17 {
		t.Error(err)
	}
}
