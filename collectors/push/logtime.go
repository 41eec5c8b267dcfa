package push

import (
	"math"
	"strconv"
	"strings"
	"time"

	"kemi"
)

// parseLogTime reads a time as loggers write it: RFC 3339 (also with a space for the T, a comma for the point, and without a zone, which then is
// UTC), or a number since 1970 in seconds, milliseconds, microseconds or nanoseconds, whichever puts it nearest to our days; seconds may
// have a fraction.
func parseLogTime(s string) (kemi.Nanos, error) {
	bad := func() (kemi.Nanos, error) {
		return 0, kemi.Errorf(kemi.ErrInvalid, "time %s: must be as 2006-01-02T15:04:05.999Z, or a number of s, ms, µs or ns since 1970", quote(s))
	}
	if s == "" {
		return bad()
	}
	if len(s) > 4 && s[4] != '-' || len(s) <= 4 {
		return parseUnixTime(s, bad)
	}
	if len(s) > 40 {
		return bad()
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	for _, layout := range []string{"2006-01-02T15:04:05.999999999Z0700", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999 Z0700", "2006-01-02 15:04:05.999999999 MST", "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", "2006-01-02"} {
		if err == nil {
			break
		}
		t, err = time.Parse(layout, s)
	}
	if err != nil || t.Year() < 1678 || t.Year() > 2261 {
		return bad()
	}
	return kemi.NanosOf(t), nil
}

func parseUnixTime(s string, bad func() (kemi.Nanos, error)) (kemi.Nanos, error) {
	whole, fraction, _ := strings.Cut(s, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || strings.ContainsAny(fraction, "eE") {
		f, err := strconv.ParseFloat(s, 64) // 1.7e9
		if err != nil || math.IsNaN(f) || math.Abs(f) >= 1<<62 || strings.ContainsAny(s, "xXpP_") {
			return bad()
		}
		n, fraction = int64(f), ""
	}
	unit := int64(1)
	switch abs := max(n, -n); {
	case abs < 1e11: // the year 5138 in seconds; 1973 in milliseconds
		unit = 1e9
	case abs < 1e14:
		unit = 1e6
	case abs < 1e17:
		unit = 1e3
	}
	if n > math.MaxInt64/unit || n < math.MinInt64/unit {
		return bad()
	}
	at := n * unit
	for i := range len(fraction) {
		c := fraction[i]
		if c < '0' || c > '9' {
			return bad()
		}
		unit /= 10
		if strings.HasPrefix(s, "-") {
			at -= int64(c-'0') * unit
		} else {
			at += int64(c-'0') * unit
		}
	}
	return kemi.Nanos(at), nil
}
