package kemi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestLabels(t *testing.T) {
	ls := LabelsOf("b", "2", "a", "1", "empty", "", "b", "3")
	if got := ls.String(); got != `{a="1", b="3"}` {
		t.Fatalf("%s", got)
	}
	if ls.Get("b") != "3" || ls.Get("c") != "" || !ls.Has("a") || ls.Has("empty") {
		t.Fatalf("%v", ls)
	}
	for _, c := range []struct{ name, value, want string }{
		{"a", "9", `{a="9", b="3"}`}, {"aa", "x", `{a="1", aa="x", b="3"}`}, {"c", "x", `{a="1", b="3", c="x"}`}, {"b", "", `{a="1"}`}, {"z", "", `{a="1", b="3"}`},
	} {
		if got := ls.With(c.name, c.value).String(); got != c.want {
			t.Errorf("with %s=%q: %s, want %s", c.name, c.value, got, c.want)
		}
	}
	if got := ls.String(); got != `{a="1", b="3"}` {
		t.Errorf("With changed its receiver: %s", got)
	}
	b, err := json.Marshal(ls)
	var back Labels
	if err != nil || json.Unmarshal(b, &back) != nil || back.Compare(ls) != 0 {
		t.Errorf("%s %v %v", b, back, err)
	}
	if ls.Compare(LabelsOf("a", "1")) <= 0 || ls.Compare(LabelsOf("a", "2")) >= 0 || Labels(nil).Compare(nil) != 0 {
		t.Error("order")
	}
}

func TestTimes(t *testing.T) {
	for n, want := range map[Nanos]Millis{1_999_999: 1, 0: 0, -1: -1, -1_000_000: -1, -1_000_001: -2} {
		if got := n.Millis(); got != want {
			t.Errorf("%d ns: %d ms, want %d", n, got, want)
		}
	}
	r := Range{From: 10, To: 20}
	if !r.Contains(10) || r.Contains(20) || r.Contains(9) {
		t.Error("a range is half open")
	}
}

func TestSeverity(t *testing.T) {
	for name, want := range map[string]string{
		"WARNING": "warn", "err": "error", "Crit": "error", "emerg": "fatal", "notice": "info", "TRACE": "trace", "dbg": "debug", "nonsense": "", "": "",
	} {
		if got := ParseSeverity(name).String(); got != want {
			t.Errorf("%q is %q, want %q", name, got, want)
		}
	}
	if Severity(25).String() != "" || Severity(24).String() != "fatal" {
		t.Error("the ends of the range")
	}
}

func TestPermissions(t *testing.T) {
	id := Identity{Project: "p", Permissions: MetricsRead | LogsRead}
	if !id.Can(MetricsRead) || !id.Can(0) || id.Can(MetricsRead|Admin) {
		t.Error("permissions")
	}
	if (Identity{Permissions: AllPermissions}).Can(MetricsRead) {
		t.Error("no project, but a permission")
	}
	if got := (MetricsRead | Admin).String(); got != "metrics:read,admin" {
		t.Error(got)
	}
}

func TestErrors(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("outer: %w", RetryAfter(Errorf(ErrUnavailable, "disk: %w", cause), 1500*time.Millisecond))
	if !errors.Is(err, ErrUnavailable) || !errors.Is(err, cause) || errors.Is(err, ErrInvalid) || err.Error() != "outer: disk: cause" || RetryDelay(err) != 1500*time.Millisecond {
		t.Fatalf("%v", err)
	}
	for _, c := range []struct {
		err  error
		code int
	}{
		{Errorf(ErrInvalid, "x"), 400}, {ErrUnauthorized, 401}, {ErrDenied, 403}, {ErrNotFound, 404}, {ErrConflict, 409}, {ErrTooLarge, 413}, {ErrLimited, 429},
		{ErrUnavailable, 503}, {context.DeadlineExceeded, 503}, {context.Canceled, 499}, {errors.ErrUnsupported, 501}, {cause, 500},
		{fmt.Errorf("read: %w", &http.MaxBytesError{Limit: 1}), 413},
	} {
		if got := HTTPStatus(c.err); got != c.code {
			t.Errorf("%v: %d, want %d", c.err, got, c.code)
		}
	}
}

func TestWriteError(t *testing.T) {
	err := RetryAfter(Errorf(ErrLimited, "limit <x> reached"), 1200*time.Millisecond)
	for d, want := range map[Dialect]string{
		DialectKEMI: `"status":429`, DialectPrometheus: `"errorType":"unavailable"`, DialectOpenTSDB: `"code":429`, DialectText: "limit <x> reached\n",
	} {
		w := httptest.NewRecorder()
		WriteError(w, d, err)
		if w.Code != 429 || w.Header().Get("Retry-After") != "2" || !strings.Contains(w.Body.String(), want) || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("dialect %d: %d %v %s", d, w.Code, w.Header(), w.Body)
		}
	}
}

// TestParseSeverityTakesNoMemory: it is called for each log record.
func TestParseSeverityTakesNoMemory(t *testing.T) {
	for name, want := range map[string]Severity{"WARNING": SeverityWarn, "Info": SeverityInfo, "informational": SeverityInfo, "no-level-at-all-but-long": 0, "ünbekannt": 0, "": 0} {
		if n := testing.AllocsPerRun(10, func() {
			if got := ParseSeverity(name); got != want {
				t.Errorf("%s: %d, want %d", name, got, want)
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
