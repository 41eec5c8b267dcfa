package logs_test

import (
	"strings"
	"testing"
	"time"

	"kemi"
	"kemi/sauron/logs"
)

// TestDelete: what a deletion finds is in no answer any more; it takes a permission of its own, and nothing that is not named.
func TestDelete(t *testing.T) {
	s := newServer(t, logs.DefaultConfig())
	now := kemi.NanosOf(time.Now())
	old := now - kemi.Nanos(time.Hour)
	for _, project := range []string{"p", "q"} {
		s.publish(project, "",
			kemi.LogRecord{At: old, Body: "user kim has logged in"}, kemi.LogRecord{At: now - 3, Body: "user kim has logged out"}, kemi.LogRecord{At: now - 2, Body: "user lee has logged out"})
	}
	const form = "application/x-www-form-urlencoded"
	for _, c := range []struct {
		body, may string
		code      int
		want      string
	}{
		{"query=kim&start=2h-ago&end=now", "", 403, "logs:delete"},
		{"query=kim&end=now", "yes", 400, "start: is missing"},
		{"query=kim&start=2h-ago", "yes", 400, "end: is missing"},
		{"start=2h-ago&end=now", "yes", 400, "query: is missing"},
		{"query=(&start=2h-ago&end=now", "yes", 400, "query"},
		{"query=kim&start=1m-ago&end=now", "yes", 200, `{"deleted":1}`},
		{"query=kim&start=1m-ago&end=now", "yes", 200, `{"deleted":0}`},
		{"query=nobody&start=2h-ago&end=now", "yes", 200, `{"deleted":0}`},
	} {
		code, text := s.do("POST", "delete", strings.NewReader(c.body), "Content-Type", form, "X-May-Delete", c.may)
		if code != c.code || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d %s; want %d %s", c.body, code, text, c.code, c.want)
		}
	}
	if got := s.ask("query", "query", "user", "start", "2h-ago", "order", "asc").bodies(); got != "user kim has logged in|user lee has logged out" {
		t.Errorf("left are %q", got)
	}
	s.do("POST", "delete", strings.NewReader(`{"query": "kim", "start": "2h-ago", "end": "now"}`), "Content-Type", "application/json", "X-May-Delete", "yes", "X-Kemi-Project", "q")
	if got := s.ask("query", "query", "user", "start", "2h-ago", "order", "asc").bodies(); got != "user kim has logged in|user lee has logged out" {
		t.Errorf("after a deletion in another project there are %q", got)
	}
	if code, _ := s.get("delete", "query", "kim", "start", "2h-ago", "end", "now"); code != 404 && code != 405 {
		t.Errorf("GET: %d", code)
	}
}
