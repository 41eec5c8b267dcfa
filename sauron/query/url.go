package query

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"kemi/sauron/tsdhttp"
)

// ParseURL reads a request in OpenTSDB's URL form: start, end, any number of m=<aggregator>:[<downsample>:][rate[{…}]:]<metric>[{tags}][{filters}] and of
// tsuid=<aggregator>:[…:]<TSUID>[,<TSUID>…], and flags.
func ParseURL(v url.Values, now time.Time) (Request, error) {
	r, err := ParseFlags(v, now)
	if err != nil {
		return r, err
	}
	for _, t := range v["tsuid"] {
		q, err := parseTSUID(t)
		if err != nil {
			return r, err
		}
		r.Queries = append(r.Queries, q)
	}
	for _, m := range v["m"] {
		q, err := ParseM(m)
		if err != nil {
			return r, err
		}
		r.Queries = append(r.Queries, q)
	}
	if len(r.Queries) == 0 {
		return r, tsdhttp.Bad("Missing sub queries", "at least one parameter m or tsuid is needed")
	}
	r.dropDoubles()
	return r, r.setTimes(last(v, "start"), last(v, "end"), now)
}

// ParseFlags reads what a URL says beside its queries; the times are checked by SetTimes.
func ParseFlags(v url.Values, now time.Time) (Request, error) {
	var r Request
	if last(v, "start") == "" {
		return r, tsdhttp.Missing("start")
	}
	if r.Timezone = last(v, "timezone"); r.Timezone == "" {
		r.Timezone = last(v, "tz")
	}
	r.UseCalendar = isSet(v, "use_calendar") || isSet(v, "useCalendar")
	r.MsResolution = isSet(v, "ms") || isSet(v, "msResolution")
	r.NoAnnotations, r.GlobalAnnotations = v.Has("no_annotations"), v.Has("global_annotations")
	r.Delete = isSet(v, "delete")
	r.setFlags(v)
	return r, nil
}

// SetTimes reads the start and the end of a URL.
func (r *Request) SetTimes(v url.Values, now time.Time) error {
	return r.setTimes(last(v, "start"), last(v, "end"), now)
}

// SetRange reads the start and, unless it is empty, the end.
func (r *Request) SetRange(start, end string, now time.Time) error {
	return r.setTimes(start, end, now)
}

// last is the last value of a parameter, which is the one that counts.
func last(v url.Values, name string) string {
	if vs := v[name]; len(vs) > 0 {
		return vs[len(vs)-1]
	}
	return ""
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

// ParseM reads the parameter m.
func ParseM(m string) (SubQuery, error) {
	if m == "" {
		return SubQuery{}, tsdhttp.Bad("The query string was empty", "must be <aggregator>:[<downsample>:][rate:]<metric>")
	}
	q, rest, err := parseParts(m)
	if err != nil {
		return q, err
	}
	q.Metric, q.Filters, err = parseMetric(rest)
	return q, err
}

func parseTSUID(t string) (SubQuery, error) {
	if t == "" {
		return SubQuery{}, tsdhttp.Bad("The tsuid query string was empty", "must be <aggregator>:[<downsample>:][rate:]<TSUID>[,<TSUID>…]")
	}
	q, rest, err := parseParts(t)
	q.TSUIDs = strings.Split(rest, ",")
	return q, err
}

// parseParts reads all parts but the last.
func parseParts(m string) (SubQuery, string, error) {
	var q SubQuery
	parts := splitOutside(m, ':')
	if len(parts) < 2 || len(parts) > 5 {
		how := "too many"
		if len(parts) < 2 {
			how = "not enough"
		}
		return q, "", tsdhttp.Bad(fmt.Sprintf("Invalid parameter m=%s (%s :-separated parts)", clip(m), how), "must be <aggregator>:[<downsample>:][rate:]<metric>")
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
		case strings.HasPrefix(lower, "percentiles"):
			q.Percentiles, err = parsePercentiles(p)
		case strings.HasPrefix(lower, "show-histogram-buckets"):
			q.Buckets = true
		case lower == "pre-agg", strings.HasPrefix(lower, "rollup_"): // which table to read: there is nothing to choose
		default:
			err = tsdhttp.Bad(fmt.Sprintf("Invalid parameter m=%s: part %q", clip(m), clip(p)),
				"it is neither a downsample, nor rate, nor explicit_tags; a metric with a colon in its name needs the JSON form")
		}
		if err != nil {
			return q, "", err
		}
	}
	return q, parts[len(parts)-1], nil
}

func parsePercentiles(s string) ([]float64, error) {
	_, list, ok := strings.Cut(s, "[")
	list, _, closed := strings.Cut(list, "]")
	if !ok || !closed {
		return nil, tsdhttp.Badf("Malformated percentile query paramater: %s", clip(s))
	}
	var out []float64
	for _, f := range strings.Split(list, ",") {
		v, err := strconv.ParseFloat(strings.TrimSpace(f), 64)
		if err != nil {
			return nil, tsdhttp.Bad("Malformated percentile query paramater: "+clip(s), clip(f)+": must be a number")
		}
		out = append(out, v)
	}
	return out, nil
}

// parseMetric reads metric{tagk=value,…}{tagk=filter,…}; the first braces group, the second only filter.
func parseMetric(s string) (string, []Filter, error) {
	if s == "" {
		return "", nil, tsdhttp.Badf("Metric cannot be null or empty")
	}
	metric, rest, ok := strings.Cut(s, "{")
	if !ok {
		return metric, nil, nil
	}
	rest, ok = strings.CutSuffix(rest, "}")
	if !ok {
		return "", nil, tsdhttp.Badf("Missing '}' at the end of: %s", clip(s))
	}
	sets := []string{rest}
	if i := strings.LastIndex(rest, "}{"); i >= 0 {
		sets = []string{rest[:i], rest[i+2:]}
	}
	var filters []Filter
	for i := len(sets) - 1; i >= 0; i-- { // those that only filter come first, as with OpenTSDB
		set := sets[i]
		what := "tag"
		if i > 0 {
			what = "filter"
		}
		for _, tag := range splitOutside(set, ',') {
			if tag == "" {
				continue
			}
			f, err := parseTag(tag, i == 0)
			if err != nil {
				message, details := err.Error(), ""
				if told := new(tsdhttp.Error); errors.As(err, &told) {
					message, details = told.Message, told.Details
				}
				return "", nil, tsdhttp.Bad(fmt.Sprintf("When parsing %s '%s': %s", what, clip(tag), message), details)
			}
			filters = append(filters, f)
		}
	}
	return metric, filters, nil
}

func parseTag(tag string, groupBy bool) (Filter, error) {
	k, value, ok := strings.Cut(tag, "=")
	if !ok || k == "" || value == "" {
		return Filter{}, tsdhttp.Bad("invalid tag: "+clip(tag), "must be <tagk>=<value or filter>")
	}
	f, err := tagFilter(k, value, groupBy)
	if err == nil {
		_, err = f.compile(f.Tagk)
	}
	return f, err
}

// splitOutside splits at sep where it stands outside of parentheses and, for the colon, of braces.
func splitOutside(s string, sep byte) []string {
	var out []string
	depth, from := 0, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '(', '{', '[':
			depth++
		case ')', '}', ']':
			depth = max(depth-1, 0)
		case sep:
			if depth == 0 {
				out = append(out, s[from:i])
				from = i + 1
			}
		}
	}
	if depth > 0 { // nothing closes what was opened: the separators count
		return strings.Split(s, string(sep))
	}
	return append(out, s[from:])
}

// parseRate reads rate{counter[,max[,reset]]}; dropcounter drops new beginnings. What does not end with counter is no counter.
func parseRate(s string) (RateOptions, error) {
	var o RateOptions
	const must = "must be rate{counter[,counter max value,reset value]} or rate{dropcounter,…}"
	if !strings.Contains(s, "{") {
		return o, nil
	}
	if len(s) < 6 || !strings.HasPrefix(s[len("rate"):], "{") || !strings.HasSuffix(s, "}") {
		return o, tsdhttp.Bad("Invalid rate options specification: "+clip(s), must)
	}
	parts := strings.Split(s[len("rate{"):len(s)-1], ",")
	if len(parts) > 3 {
		return o, tsdhttp.Badf("Incorrect number of values in rate options specification, must be counter[,counter max value,reset value], recieved: %d parts", len(parts))
	}
	o.Given, o.Counter, o.DropResets = true, strings.HasSuffix(parts[0], "counter"), parts[0] == "dropcounter"
	if parts[0] != "" && !o.Counter {
		return o, tsdhttp.Bad("Invalid rate options specification: "+clip(s), clip(parts[0])+": "+must)
	}
	for i, f := range []*int64{&o.CounterMax, &o.ResetValue} {
		if len(parts) < i+2 || parts[i+1] == "" {
			continue
		}
		n, err := strconv.ParseInt(parts[i+1], 10, 64)
		if err != nil {
			return o, tsdhttp.Bad(fmt.Sprintf("%s value of counter was not a number, received '%s'", []string{"Max", "Reset"}[i], clip(parts[i+1])), must)
		}
		*f = n
		o.HasMax = o.HasMax || i == 0
	}
	return o, nil
}
