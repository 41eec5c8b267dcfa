package logql

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"time"

	"kemi"
)

// lineFormat is | line_format "…".
type lineFormat struct{ t *formatTemplate }

// labelFormat is | label_format a=b, c="…".
type labelFormat struct{ of []labelSet }

type labelSet struct {
	name, from string
	t          *formatTemplate
}

// formatTemplate is a template of text/template with Loki's functions. Those that are about the line get it when it is executed.
type formatTemplate struct{ text string }

func newTemplate(s string) (*formatTemplate, error) {
	if _, err := template.New("").Option("missingkey=zero").Funcs(functions(&entry{})).Parse(s); err != nil {
		return nil, kemi.Errorf(kemi.ErrInvalid, "template %q: %w", s, err)
	}
	return &formatTemplate{s}, nil
}

func newLineFormat(s string) (Stage, error) {
	t, err := newTemplate(s)
	return &lineFormat{t}, err
}

// limited is a writer that takes only so much.
type limited struct{ strings.Builder }

const maxFormatted = 1 << 20

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > maxFormatted {
		return 0, kemi.Errorf(kemi.ErrTooLarge, "a template made more than %d bytes", maxFormatted)
	}
	return l.Builder.Write(b)
}

func (t *formatTemplate) run(e *entry) (string, error) {
	c, err := template.New("").Option("missingkey=zero").Funcs(functions(e)).Parse(t.text)
	if err != nil {
		return "", err
	}
	labels := make(map[string]string, len(e.labels))
	for _, l := range e.labels {
		labels[l.Name] = l.Value
	}
	if e.failed != "" {
		labels["__error__"], labels["__error_details__"] = e.failed, e.detail
	}
	var out limited
	if err := c.Execute(&out, labels); err != nil {
		return "", err
	}
	return out.String(), nil
}

func (s *lineFormat) apply(e *entry) bool {
	line, err := s.t.run(e)
	if err != nil {
		e.fail("TemplateFormatErr", err)
		return true
	}
	e.line = line
	return true
}

func (s *labelFormat) apply(e *entry) bool {
	for _, op := range s.of {
		if op.t == nil {
			if v, ok := e.get(op.from); ok {
				e.remove(op.from)
				e.set(op.name, v)
			}
			continue
		}
		v, err := op.t.run(e)
		if err != nil {
			e.fail("TemplateFormatErr", err)
			continue
		}
		e.set(op.name, v)
	}
	return true
}

func number64(v any) float64 {
	n, _ := strconv.ParseFloat(strings.TrimSpace(fmt.Sprint(v)), 64)
	return n
}

func whole(v any) int64 { return int64(number64(v)) }

func functions(e *entry) template.FuncMap {
	fold := func(f func(a, b float64) float64) func(a any, more ...any) float64 {
		return func(a any, more ...any) float64 {
			n := number64(a)
			for _, m := range more {
				n = f(n, number64(m))
			}
			return n
		}
	}
	foldInt := func(f func(a, b int64) int64) func(a any, more ...any) int64 {
		return func(a any, more ...any) int64 {
			n := whole(a)
			for _, m := range more {
				n = f(n, whole(m))
			}
			return n
		}
	}
	align := func(left bool) func(n int, s string) string {
		return func(n int, s string) string {
			r := []rune(s)
			switch {
			case n < 0 || n > maxFormatted:
				return s
			case len(r) >= n && left:
				return string(r[:n])
			case len(r) >= n:
				return string(r[len(r)-n:])
			case left:
				return s + strings.Repeat(" ", n-len(r))
			}
			return strings.Repeat(" ", n-len(r)) + s
		}
	}
	re := func(literal bool) func(expr, s, with string) (string, error) {
		return func(expr, s, with string) (string, error) {
			r, err := regexp.Compile(expr)
			if err != nil {
				return "", err
			}
			if literal {
				return r.ReplaceAllLiteralString(s, with), nil
			}
			return r.ReplaceAllString(s, with), nil
		}
	}
	return template.FuncMap{
		"__line__":      func() string { return e.line },
		"__timestamp__": func() time.Time { return e.at.Time() },
		"ToLower":       strings.ToLower, "ToUpper": strings.ToUpper, "Replace": strings.Replace, "Trim": strings.Trim, "TrimLeft": strings.TrimLeft,
		"TrimRight": strings.TrimRight, "TrimPrefix": strings.TrimPrefix, "TrimSuffix": strings.TrimSuffix, "TrimSpace": strings.TrimSpace,
		"lower": strings.ToLower, "upper": strings.ToUpper, "title": func(s string) string {
			words := strings.Fields(s)
			for i, w := range words {
				words[i] = strings.ToUpper(w[:1]) + w[1:]
			}
			return strings.Join(words, " ")
		},
		"contains": func(sub, s string) bool { return strings.Contains(s, sub) }, "hasPrefix": func(p, s string) bool { return strings.HasPrefix(s, p) }, "hasSuffix": func(p, s string) bool { return strings.HasSuffix(s, p) },
		"eq": func(a, b any) bool { return fmt.Sprint(a) == fmt.Sprint(b) },
		"trunc": func(n int, s string) string {
			if n < 0 && len(s)+n > 0 {
				return s[len(s)+n:]
			}
			if n >= 0 && n < len(s) {
				return s[:n]
			}
			return s
		},
		"substr": func(from, to int, s string) string {
			from = max(0, min(from, len(s)))
			if to < from || to > len(s) {
				to = len(s)
			}
			return s[from:to]
		},
		"replace": func(old, with, s string) string { return strings.ReplaceAll(s, old, with) },
		"repeat":  func(n int, s string) string { return strings.Repeat(s, max(0, min(n, maxFormatted/max(1, len(s))))) },
		"trim":    strings.TrimSpace, "trimAll": func(cut, s string) string { return strings.Trim(s, cut) }, "trimSuffix": func(x, s string) string { return strings.TrimSuffix(s, x) }, "trimPrefix": func(x, s string) string { return strings.TrimPrefix(s, x) },
		"indent": func(n int, s string) string {
			pad := strings.Repeat(" ", max(0, min(n, 1000)))
			return pad + strings.ReplaceAll(s, "\n", "\n"+pad)
		},
		"nindent": func(n int, s string) string {
			pad := strings.Repeat(" ", max(0, min(n, 1000)))
			return "\n" + pad + strings.ReplaceAll(s, "\n", "\n"+pad)
		},
		"alignLeft":  align(true),
		"alignRight": align(false),
		"int":        whole, "float64": number64,
		"add": foldInt(func(a, b int64) int64 { return a + b }), "sub": foldInt(func(a, b int64) int64 { return a - b }), "mul": foldInt(func(a, b int64) int64 { return a * b }),
		"div": func(a, b any) (int64, error) {
			if whole(b) == 0 {
				return 0, kemi.Errorf(kemi.ErrInvalid, "division by zero")
			}
			return whole(a) / whole(b), nil
		},
		"mod": func(a, b any) (int64, error) {
			if whole(b) == 0 {
				return 0, kemi.Errorf(kemi.ErrInvalid, "division by zero")
			}
			return whole(a) % whole(b), nil
		},
		"addf": fold(func(a, b float64) float64 { return a + b }), "subf": fold(func(a, b float64) float64 { return a - b }), "mulf": fold(func(a, b float64) float64 { return a * b }), "divf": fold(func(a, b float64) float64 { return a / b }),
		"max": foldInt(func(a, b int64) int64 { return max(a, b) }), "min": foldInt(func(a, b int64) int64 { return min(a, b) }), "maxf": fold(math.Max), "minf": fold(math.Min),
		"ceil": func(v any) float64 { return math.Ceil(number64(v)) }, "floor": func(v any) float64 { return math.Floor(number64(v)) },
		"round": func(v any, digits int) float64 {
			f := math.Pow(10, float64(digits))
			return math.Round(number64(v)*f) / f
		},
		"regexReplaceAll": re(false), "regexReplaceAllLiteral": re(true),
		"count": func(expr, s string) (int, error) {
			r, err := regexp.Compile(expr)
			if err != nil {
				return 0, err
			}
			return len(r.FindAllStringIndex(s, -1)), nil
		},
		"default": func(d string, s any) string {
			if text := fmt.Sprint(s); s != nil && text != "" {
				return text
			}
			return d
		},
		"fromJson":  func(s string) (v any, err error) { err = json.Unmarshal([]byte(s), &v); return v, err },
		"urlencode": url.QueryEscape, "urldecode": url.QueryUnescape,
		"b64enc":   func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"b64dec":   func(s string) (string, error) { b, err := base64.StdEncoding.DecodeString(s); return string(b), err },
		"bytes":    func(s string) (float64, error) { return convert(s, 'b') },
		"duration": func(s string) (float64, error) { n, err := convert(s, 'd'); return n / 1e9, err }, "duration_seconds": func(s string) (float64, error) { n, err := convert(s, 'd'); return n / 1e9, err },
		"now": time.Now, "date": func(layout string, t time.Time) string { return t.Format(layout) }, "toDate": func(layout, s string) (time.Time, error) { return time.Parse(layout, s) },
		"unixEpoch": func(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }, "unixEpochMillis": func(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }, "unixEpochNanos": func(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) },
		"unixToTime": func(s string) (time.Time, error) {
			n, err := strconv.ParseInt(s, 10, 64)
			switch {
			case len(s) <= 5:
				return time.Unix(n*86400, 0), err
			case len(s) <= 10:
				return time.Unix(n, 0), err
			case len(s) <= 13:
				return time.UnixMilli(n), err
			case len(s) <= 16:
				return time.UnixMicro(n), err
			}
			return time.Unix(0, n), err
		},
	}
}
