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
	if at, ok := parseUTC(s); ok {
		return at, nil
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

// parseUTC reads 2006-01-02T15:04:05.999999999Z, with a fraction or without: as nearly all loggers write it. Anything else is not ok.
func parseUTC(s string) (at kemi.Nanos, ok bool) {
	const form = "0000-00-00T00:00:00"
	if len(s) <= len(form) || s[len(s)-1] != 'Z' {
		return 0, false
	}
	for i := range len(form) {
		if digit := form[i] == '0'; digit && s[i]-'0' > 9 || !digit && s[i] != form[i] {
			return 0, false
		}
	}
	two := func(i int) int { return int(s[i]-'0')*10 + int(s[i+1]-'0') }
	year, month, day, hour, minute, second := two(0)*100+two(2), two(5), two(8), two(11), two(14), two(17)
	if year < 1970 || year > 2261 || month < 1 || month > 12 || day < 1 || day > 28 && day > daysIn(year, month) || hour > 23 || minute > 59 || second > 59 {
		return 0, false
	}
	fraction, unit := int64(0), int64(1e9)
	if rest := s[len(form) : len(s)-1]; rest != "" {
		if rest[0] != '.' || len(rest) < 2 || len(rest) > 10 {
			return 0, false
		}
		for i := 1; i < len(rest); i++ {
			c := rest[i] - '0'
			if c > 9 {
				return 0, false
			}
			unit /= 10
			fraction += int64(c) * unit
		}
	}
	// Days since 1970: years count from March, so that the day that some have more is their last.
	y, m := year, month-3
	if m < 0 {
		y, m = y-1, m+12
	}
	days := 365*y + y/4 - y/100 + y/400 + (153*m+2)/5 + day - 1 - 719468
	return kemi.Nanos(int64(days*86400+hour*3600+minute*60+second)*1e9 + fraction), true
}

func daysIn(year, month int) int {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
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
