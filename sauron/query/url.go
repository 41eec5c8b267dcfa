package query

import (
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"kemi"
)

// ParseURL reads a request in OpenTSDB's URL form: start, end, and any number of m=<aggregator>:[<downsample>:][rate[{…}]:]<metric>[{tags}][{filters}].
func ParseURL(v url.Values, now time.Time) (Request, error) {
	var r Request
	if isSet(v, "delete") {
		return r, errDelete()
	}
	if v.Get("start") == "" {
		return r, kemi.Errorf(kemi.ErrInvalid, "Missing parameter start")
	}
	r.Timezone = v.Get("timezone")
	if r.Timezone == "" {
		r.Timezone = v.Get("tz")
	}
	r.UseCalendar = isSet(v, "use_calendar") || isSet(v, "useCalendar")
	r.MsResolution = isSet(v, "ms") || isSet(v, "msResolution")
	r.setFlags(v)
	if err := r.setTimes(v.Get("start"), v.Get("end"), now); err != nil {
		return r, err
	}
	if isSet(v, "tsuid") {
		return r, errTsuids()
	}
	if len(v["m"]) == 0 {
		return r, kemi.Errorf(kemi.ErrInvalid, "Missing sub queries: at least one parameter m is needed")
	}
	for _, m := range v["m"] {
		q, err := parseM(m)
		if err != nil {
			return r, err
		}
		r.Queries = append(r.Queries, q)
	}
	r.dropDoubles()
	return r, nil
}

// setFlags reads what a URL can say of the form of the answer, also when the queries come in a body.
func (r *Request) setFlags(v url.Values) {
	for name, f := range map[string]*bool{
		"arrays": &r.Arrays, "show_tsuids": &r.ShowTSUIDs, "show_query": &r.ShowQuery, "show_stats": &r.ShowStats, "show_summary": &r.ShowSummary,
	} {
		*f = *f || isSet(v, name)
	}
}

// isSet tells whether a parameter is there; its value matters only if it is "false".
func isSet(v url.Values, name string) bool {
	vs, ok := v[name]
	return ok && (len(vs) == 0 || vs[0] != "false")
}

func parseM(m string) (SubQuery, error) {
	var q SubQuery
	parts := splitOutside(m, ':')
	if len(parts) < 2 || len(parts) > 5 {
		how := "many"
		if len(parts) < 2 {
			how = "few"
		}
		return q, kemi.Errorf(kemi.ErrInvalid, "Invalid parameter m=%s (too %s :-separated parts): must be <aggregator>:[<downsample>:][rate:]<metric>", clip(m), how)
	}
	q.Aggregator = parts[0]
	for _, p := range parts[1 : len(parts)-1] {
		lower := strings.ToLower(p)
		var err error
		switch {
		case strings.HasPrefix(lower, "rate"):
			q.Rate = true
			q.RateOptions, err = parseRate(p)
		case p != "" && p[0] >= '0' && p[0] <= '9', strings.HasPrefix(lower, "all-"):
			q.Downsample = p
		case strings.HasPrefix(lower, "explicit_tags"):
			q.ExplicitTags = true
		case strings.HasPrefix(lower, "percentiles"), strings.HasPrefix(lower, "show-histogram-buckets"):
			err = errHistograms()
		case lower == "pre-agg", strings.HasPrefix(lower, "rollup_"): // which table to read: there is nothing to choose
		default:
			err = kemi.Errorf(kemi.ErrInvalid, "Invalid parameter m=%s: part %q is neither a downsample, nor rate, nor explicit_tags; a metric with a colon in its name needs the JSON form", clip(m), clip(p))
		}
		if err != nil {
			return q, err
		}
	}
	var err error
	q.Metric, q.Filters, err = parseMetric(parts[len(parts)-1])
	return q, err
}

// parseMetric reads metric{tagk=value,…}{tagk=filter,…}; the first braces group, the second only filter.
func parseMetric(s string) (string, []Filter, error) {
	metric, rest, ok := strings.Cut(s, "{")
	if metric == "" {
		return "", nil, kemi.Errorf(kemi.ErrInvalid, "Metric cannot be null or empty")
	}
	if !ok {
		return metric, nil, nil
	}
	rest, ok = strings.CutSuffix(rest, "}")
	if !ok {
		return "", nil, kemi.Errorf(kemi.ErrInvalid, "Missing '}' at the end of: %s", clip(s))
	}
	sets := []string{rest}
	if i := strings.LastIndex(rest, "}{"); i >= 0 {
		sets = []string{rest[:i], rest[i+2:]}
	}
	var filters []Filter
	for i, set := range sets {
		for _, tag := range splitOutside(set, ',') {
			if tag == "" {
				continue
			}
			k, value, ok := strings.Cut(tag, "=")
			if !ok || k == "" || value == "" {
				return "", nil, kemi.Errorf(kemi.ErrInvalid, "When parsing tag '%s': invalid tag: must be <tagk>=<value or filter>", clip(tag))
			}
			f, err := tagFilter(k, value, i == 0)
			if err != nil {
				return "", nil, err
			}
			filters = append(filters, f)
		}
	}
	return metric, filters, nil
}

// splitOutside splits at sep where it stands outside of parentheses and, for the colon, of braces.
func splitOutside(s string, sep byte) []string {
	var out []string
	depth, from := 0, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '(', '{':
			depth++
		case ')', '}':
			depth = max(depth-1, 0)
		case sep:
			if depth == 0 {
				out = append(out, s[from:i])
				from = i + 1
			}
		}
	}
	return append(out, s[from:])
}

// parseRate reads rate{counter[,max[,reset]]}; dropcounter drops new beginnings.
func parseRate(s string) (RateOptions, error) {
	var o RateOptions
	rest := s[len("rate"):]
	if rest == "" {
		return o, nil
	}
	inner, ok := strings.CutPrefix(rest, "{")
	if ok {
		inner, ok = strings.CutSuffix(inner, "}")
	}
	parts := strings.Split(inner, ",")
	if !ok || len(parts) > 3 || parts[0] != "" && parts[0] != "counter" && parts[0] != "dropcounter" {
		return o, kemi.Errorf(kemi.ErrInvalid, "Invalid rate options specification: %s: must be rate{counter[,counter max value,reset value]} or rate{dropcounter,…}", clip(s))
	}
	o.Counter, o.DropResets = parts[0] != "", parts[0] == "dropcounter"
	for i, f := range []*int64{&o.CounterMax, &o.ResetValue} {
		if len(parts) < i+2 || parts[i+1] == "" {
			continue
		}
		n, err := strconv.ParseInt(parts[i+1], 10, 64)
		if err != nil || n < 0 {
			return o, kemi.Errorf(kemi.ErrInvalid, "%s value of counter was not a number, received '%s': must be a whole number from 0 to %d", []string{"Max", "Reset"}[i], clip(parts[i+1]), int64(math.MaxInt64))
		}
		*f = n
	}
	return o, nil
}
