package logs

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"kemi"
	"kemi/pipeline/store"
	"kemi/sauron/query"
)

// maxBody is the largest POST that is read.
const maxBody = 1 << 20

// params are the parameters of the URL and, of a POST, those of the body: a form, or a JSON object.
func params(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "parameters of the URL: %w", err)
	}
	if r.Method != http.MethodPost {
		return v, nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, kemi.Errorf(kemi.ErrTooLarge, "body: more than %d bytes", maxBody)
		}
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: %w", err)
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "application/json" {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, kemi.Errorf(kemi.ErrInvalid, "body: must be a form or, with Content-Type application/json, an object: %w", err)
		}
		for name, values := range form {
			v[name] = append(v[name], values...)
		}
		return v, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "body: must be an object such as {\"query\": \"level:error\", \"start\": \"1h-ago\"}: %w", err)
	}
	for name, raw := range members {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			var n json.Number
			if err := json.Unmarshal(raw, &n); err != nil {
				return nil, kemi.Errorf(kemi.ErrInvalid, "body: %s: must be a string or a number", name)
			}
			s = n.String()
		}
		v.Set(name, s)
	}
	return v, nil
}

// question is what the parameters of all questions have in common.
type question struct {
	expr     store.LogExpr
	warnings []string
	span     store.NanoRange
}

const defaultSpan = 15 * time.Minute

func parseQuestion(v url.Values, now time.Time) (q question, err error) {
	if q.expr, q.warnings, err = ParseWarn(first(v, "query", "q")); err != nil {
		return q, err
	}
	end := kemi.NanosOf(now)
	if s := first(v, "end", "to"); s != "" {
		if end, err = parseTime(s, now); err != nil {
			return q, named("end", err)
		}
	}
	start := end - kemi.Nanos(defaultSpan)
	if s := first(v, "start", "from"); s != "" {
		if start, err = parseTime(s, now); err != nil {
			return q, named("start", err)
		}
	}
	if start > end {
		return q, kemi.Errorf(kemi.ErrInvalid, "start: %s: must not be after end, %s", stamp(start), stamp(end))
	}
	q.span = store.NanoRange{From: start, To: end}
	return q, nil
}

func named(param string, err error) error { return kemi.Errorf(kemi.ErrInvalid, "%s: %w", param, err) }

func stamp(at kemi.Nanos) string { return at.Time().Format(time.RFC3339Nano) }

// first is the value of the first parameter that is there.
func first(v url.Values, names ...string) string {
	for _, n := range names {
		if s := v.Get(n); s != "" {
			return s
		}
	}
	return ""
}

// parseTime reads a time as the metric queries do (seconds, milliseconds, 1h-ago, now, 2018/01/14-08:15:00), and besides microseconds and
// nanoseconds (16 and 19 digits) and RFC 3339.
func parseTime(s string, now time.Time) (kemi.Nanos, error) {
	s = strings.TrimSpace(s)
	digits := s != "" && strings.Trim(s, "0123456789") == ""
	switch {
	case strings.EqualFold(s, "now"):
		return kemi.NanosOf(now), nil
	case digits && len(s) > 13 && len(s) <= 16:
		n, err := strconv.ParseInt(s, 10, 64)
		return kemi.Nanos(n) * 1000, err
	case digits && len(s) > 16:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, kemi.Errorf(kemi.ErrInvalid, "%s: must be a time in seconds, milliseconds, microseconds or nanoseconds since 1970", quote(s))
		}
		return kemi.Nanos(n), nil
	case len(s) > 4 && s[4] == '-':
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil || t.Year() < 1970 || t.Year() > 2261 {
			return 0, kemi.Errorf(kemi.ErrInvalid, "%s: must be as 2006-01-02T15:04:05Z, between 1970 and 2261", quote(s))
		}
		return kemi.NanosOf(t), nil
	}
	ms, err := query.ParseTime(s, time.UTC, now)
	if err != nil {
		return 0, err
	}
	if n := kemi.NanosOf(now); strings.HasSuffix(strings.ToLower(s), "-ago") {
		return ms.Nanos() + n%1e6, nil // as exact as the clock
	}
	if ms > 9_223_372_036_000 {
		return 0, kemi.Errorf(kemi.ErrInvalid, "%s: must lie between 1970 and 2261", quote(s))
	}
	return ms.Nanos(), nil
}

// number reads a count from least to most.
func number(v url.Values, name string, fallback, least, most int) (int, error) {
	s := v.Get(name)
	if s == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		return 0, kemi.Errorf(kemi.ErrInvalid, "%s: %s: must be a number from %d to %d", name, quote(s), least, most)
	}
	return n, nil
}

// parseStep reads a duration as the metric queries do (1m, 1d), or a number of milliseconds.
func parseStep(s string) (int64, error) {
	if strings.Trim(s, "0123456789") == "" {
		s += "ms"
	}
	return query.ParseDuration(s)
}
