package query

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // time zones are part of the query language, also where the system has no zone files

	"kemi"
	"kemi/sauron/tsdhttp"
)

// maxTime is the last time that a query can name: 13 digits of milliseconds.
const maxTime = kemi.Millis(9_999_999_999_999)

// ParseTime reads a time as OpenTSDB takes it: seconds (up to 10 digits, also with milliseconds after a dot), milliseconds (more digits, or
// with the unit ms), now, a duration ago (15m-ago), or a date in loc (2018/01/14, 2018/01/14-08:15, 2018/01/14-08:15:00, also with a
// space between date and time). A nil loc is UTC.
func ParseTime(s string, loc *time.Location, now time.Time) (kemi.Millis, error) {
	lower := strings.ToLower(s)
	var t kemi.Millis
	var err error
	switch {
	case s == "":
		return 0, tsdhttp.Bad("Missing start time", timesAre)
	case lower == "now":
		return kemi.MillisOf(now), nil
	case strings.HasSuffix(lower, "-ago"):
		d, err := ParseDuration(s[:len(s)-len("-ago")])
		if err != nil {
			return 0, err
		}
		t = kemi.MillisOf(now) - kemi.Millis(d)
		if t < 0 {
			return 0, tsdhttp.Bad("Invalid time: "+clip(s), "it is before 1970")
		}
		return t, nil
	case strings.ContainsAny(s, "/:"):
		t, err = parseDate(s, loc)
	default:
		t, err = parseUnix(s)
	}
	if err == nil && t < 0 {
		err = tsdhttp.Bad("Invalid time: "+clip(s), "it is before 1970")
	}
	return t, err
}

func parseDate(s string, loc *time.Location) (kemi.Millis, error) {
	if loc == nil {
		loc = time.UTC
	}
	layout := ""
	switch len(s) {
	case 10:
		layout = "2006/01/02"
	case 16:
		layout = "2006/01/02-15:04"
	case 19:
		layout = "2006/01/02-15:04:05"
	default:
		return 0, tsdhttp.Bad("Invalid absolute date: "+clip(s), datesAre)
	}
	in := s
	if len(s) > 10 && s[10] == ' ' {
		in = s[:10] + "-" + s[11:]
	}
	t, err := time.ParseInLocation(layout, in, loc)
	if err != nil {
		return 0, tsdhttp.Bad("Invalid date: "+clip(s)+". Unparseable date: \""+clip(s)+"\"", datesAre)
	}
	return kemi.MillisOf(t), nil
}

func parseUnix(s string) (kemi.Millis, error) {
	digits, unitMillis := strings.CutSuffix(s, "ms")
	if sec, frac, ok := strings.Cut(digits, "."); ok {
		if unitMillis || len(sec) != 10 || len(frac) < 1 || len(frac) > 3 || !allDigits(sec) || !allDigits(frac) {
			return 0, tsdhttp.Badf("Invalid time: %s. Millisecond timestamps must be in the format <seconds>.<ms> where the milliseconds are limited to 3 digits", clip(s))
		}
		digits, unitMillis = sec+frac+"000"[len(frac):], true
	}
	if len(digits) > 1 && digits[0] == '-' && allDigits(digits[1:]) {
		return 0, tsdhttp.Bad("Invalid time: "+clip(s)+". Negative timestamps are not supported.", timesAre)
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, tsdhttp.Bad(fmt.Sprintf("Invalid time: %s. Invalid character '%c' in %s", clip(s), c, clip(s)), timesAre)
		}
	}
	if len(digits) > 18 {
		return 0, tsdhttp.Bad(fmt.Sprintf("Invalid time: %s. Value too long: %s", clip(s), clip(s)), timesAre)
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, tsdhttp.Bad("Invalid time: "+clip(s), timesAre)
	}
	if !unitMillis && len(digits) <= 10 {
		n *= 1000
	}
	return kemi.Millis(n), nil
}

func allDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// ParseDuration reads a number and a unit: ms, s, m, h, d, w, n (a month of 30 days) or y (a year of 365 days). The result is in milliseconds.
func ParseDuration(s string) (int64, error) {
	n, u, err := splitDuration(s)
	if err != nil {
		return 0, err
	}
	if n > int64(maxTime)/u.millis {
		return 0, tsdhttp.Badf("Duration must be < Long.MAX_VALUE ms: %s", clip(s))
	}
	return n * u.millis, nil
}

// unit is a unit of durations.
type unit struct {
	name   string
	millis int64
}

var units = []unit{{"ms", 1}, {"s", 1000}, {"m", 60_000}, {"h", 3_600_000}, {"d", 86_400_000}, {"w", 7 * 86_400_000}, {"n", 30 * 86_400_000}, {"y", 365 * 86_400_000}}

func splitDuration(s string) (int64, unit, error) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	if i == 0 || i > 15 {
		return 0, unit{}, tsdhttp.Bad("Invalid duration (number): "+clip(s), "must be a number and a unit as 15m")
	}
	n, _ := strconv.ParseInt(s[:i], 10, 64) // at most 15 digits
	if n == 0 {
		return 0, unit{}, tsdhttp.Bad("Zero or negative duration: "+clip(s), "must be a number and a unit as 15m")
	}
	for _, u := range units {
		if strings.EqualFold(s[i:], u.name) {
			return n, u, nil
		}
	}
	if s[i:] == "" {
		return 0, unit{}, tsdhttp.Bad("Invalid duration, must have an integer and unit: "+clip(s), "must be a number and a unit as 15m")
	}
	return 0, unit{}, tsdhttp.Bad("Invalid duration (suffix): "+clip(s), "the unit must be ms, s, m, h, d, w, n or y")
}

// location is the time zone of that name; the empty name is UTC.
func location(name string) (*time.Location, error) {
	if name == "" {
		return time.UTC, nil
	}
	loc, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, tsdhttp.Bad("Invalid timezone name: "+clip(name), "must be a name of the time zone database as Asia/Seoul")
	}
	return loc, nil
}

// clip keeps what a message repeats of a request short.
func clip(s string) string { return tsdhttp.Clip(s) }

// What times and dates have to be, for messages.
const (
	timesAre = "a time must be seconds, milliseconds, a date as 2018/01/14-08:15:00, now, or a duration as 1h-ago"
	datesAre = "a date must be yyyy/MM/dd, yyyy/MM/dd-HH:mm or yyyy/MM/dd-HH:mm:ss"
)

// previousInterval is where the calendar interval of n units begins that t lies in. Intervals are counted from the beginning of the next
// larger unit that they divide: 6h from midnight, 7h from the first of the month, 1d from midnight, 2d from the first of January.
func previousInterval(t int64, n int64, u unit, loc *time.Location) int64 {
	at := time.UnixMilli(t).In(loc)
	y, mo, d := at.Date()
	h, mi, s := at.Clock()
	var top time.Time
	switch u.name {
	case "ms":
		top = time.Date(y, mo, d, h, mi, pick(1000%n == 0, s, 0), 0, loc)
	case "s":
		top = time.Date(y, mo, d, h, pick(60%n == 0, mi, 0), 0, 0, loc)
	case "m":
		top = time.Date(y, mo, d, pick(60%n == 0, h, 0), 0, 0, 0, loc)
	case "h":
		top = time.Date(y, mo, pick(24%n == 0, d, 1), 0, 0, 0, 0, loc)
	case "d":
		top = dayStart(y, pickMonth(n == 1, mo), pick(n == 1, d, 1), loc)
	case "w": // weeks begin on Sunday
		top, n = dayStart(y, mo, d-int(at.Weekday()), loc), 1
	default:
		top = dayStart(y, 1, 1, loc)
	}
	from := top.UnixMilli()
	if from > t { // a clock that was set back within the unit: time.Date took the later of two equal wall clocks
		from -= 3_600_000
	}
	switch u.name {
	case "ms", "s", "m", "h":
		step := n * u.millis
		return from + (t-from)/step*step
	}
	for {
		next := addCalendar(from, n, u, loc)
		if next > t {
			return from
		}
		from = next
	}
}

// addCalendar is n units after t on the wall clock, t being the begin of such an interval; units up to the hour are of fixed length.
func addCalendar(t, n int64, u unit, loc *time.Location) int64 {
	y, mo, d := time.UnixMilli(t).In(loc).Date()
	switch u.name {
	case "d":
		return dayStart(y, mo, d+int(n), loc).UnixMilli()
	case "w":
		return dayStart(y, mo, d+int(7*n), loc).UnixMilli()
	case "n":
		return dayStart(y, mo+time.Month(n), d, loc).UnixMilli()
	case "y":
		return dayStart(y+int(n), mo, d, loc).UnixMilli()
	}
	return t + n*u.millis
}

// dayStart is midnight, or the first moment of the day if a change of the clock skips midnight.
func dayStart(y int, mo time.Month, d int, loc *time.Location) time.Time {
	t := time.Date(y, mo, d, 0, 0, 0, 0, loc)
	if t.Hour() > 12 {
		t = t.Add(time.Hour)
	}
	return t
}

func pick(ok bool, a, b int) int {
	if ok {
		return a
	}
	return b
}

func pickMonth(ok bool, m time.Month) time.Month {
	if ok {
		return m
	}
	return time.January
}
