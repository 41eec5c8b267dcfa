package kemi

// Severity is OpenTelemetry's SeverityNumber: 0 unknown, 1–4 trace, 5–8 debug, 9–12 info, 13–16 warn, 17–20 error,
// 21–24 fatal.
type Severity uint8

// The first number of each named range.
const (
	SeverityTrace Severity = 1
	SeverityDebug Severity = 5
	SeverityInfo  Severity = 9
	SeverityWarn  Severity = 13
	SeverityError Severity = 17
	SeverityFatal Severity = 21
)

// String is the lower-case name of the range that s lies in, as people write it in queries: "error", "warn".
func (s Severity) String() string {
	switch {
	case s == 0 || s > 24:
		return ""
	case s < SeverityDebug:
		return "trace"
	case s < SeverityInfo:
		return "debug"
	case s < SeverityWarn:
		return "info"
	case s < SeverityError:
		return "warn"
	case s < SeverityFatal:
		return "error"
	}
	return "fatal"
}

// ParseSeverity reads the names that loggers use, syslog's included, in any case; what it does not know is 0.
func ParseSeverity(name string) Severity {
	var lower [16]byte // longer than any of them
	if len(name) > len(lower) {
		return 0
	}
	for i := range len(name) {
		c := name[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower[i] = c
	}
	switch string(lower[:len(name)]) {
	case "trace", "trc", "finest", "verbose":
		return SeverityTrace
	case "debug", "dbg", "fine", "d":
		return SeverityDebug
	case "info", "information", "informational", "inf", "i":
		return SeverityInfo
	case "notice":
		return SeverityInfo + 1
	case "warn", "warning", "wrn", "w":
		return SeverityWarn
	case "error", "err", "eror", "e", "severe":
		return SeverityError
	case "critical", "crit":
		return SeverityError + 1
	case "alert":
		return SeverityError + 2
	case "fatal", "panic", "emerg", "emergency", "f":
		return SeverityFatal
	}
	return 0
}
