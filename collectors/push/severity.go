package push

import (
	"strings"

	"kemi"
)

// The names under which senders tell the severity of a record, the likeliest first.
var levelNames = []string{"level", "severity", "detected_level", "lvl", "loglevel", "log.level", "levelname", "severity_text", "PRIORITY"}

// parseLevel reads a level as loggers write it: a name, or a number of pino and bunyan (10 trace … 60 fatal).
func parseLevel(v string) kemi.Severity {
	if len(v) == 2 && v[1] == '0' && v[0] >= '1' && v[0] <= '6' {
		return kemi.Severity(v[0]-'1')*4 + 1
	}
	if len(v) > 16 {
		return 0
	}
	return kemi.ParseSeverity(v)
}

// parsePriority reads a level of journald, 0 emergency … 7 debug.
func parsePriority(v string) kemi.Severity {
	if len(v) != 1 || v[0] < '0' || v[0] > '7' {
		return 0
	}
	return [...]kemi.Severity{
		kemi.SeverityFatal, kemi.SeverityError + 2, kemi.SeverityError + 1, kemi.SeverityError, kemi.SeverityWarn, kemi.SeverityInfo + 1, kemi.SeverityInfo, kemi.SeverityDebug,
	}[v[0]-'0']
}

// levelOf reads the value of a field of that name.
func levelOf(name, v string) kemi.Severity {
	if name == "PRIORITY" {
		return parsePriority(v)
	}
	return parseLevel(v)
}

// labelSeverity is what one of the labels says of the severity.
func labelSeverity(ls kemi.Labels) kemi.Severity {
	for _, l := range ls {
		if isLevelName(l.Name) {
			if s := levelOf(l.Name, l.Value); s != 0 {
				return s
			}
		}
	}
	return 0
}

// saidByLevel tells whether the field level of a record of severity s says all that l does, so that l need not be kept.
func saidByLevel(l kemi.Label, s kemi.Severity) bool {
	return l.Name == "level" && strings.EqualFold(l.Value, s.String())
}

const (
	// How far into a text its severity is looked for, in bytes: in JSON and logfmt, and in words, of which only the first few count.
	fieldsWithin = 1024
	wordsWithin  = 160
	wordsBefore  = 10
	marksBefore  = 6 // in brackets or before a colon words are also of sentences, further on
)

// severityOf finds the severity that a line states itself: a field level or severity of JSON or logfmt, or a word as loggers put it in
// front of the message: in capitals, in brackets, or before a colon. 0 if there is none.
func severityOf(body string) kemi.Severity {
	head := body[:min(len(body), fieldsWithin)]
	if strings.HasPrefix(head, "{") {
		return jsonSeverity(head)
	}
	if s := logfmtSeverity(head); s != 0 {
		return s
	}
	return wordSeverity(body[:min(len(body), wordsWithin)])
}

func jsonSeverity(s string) kemi.Severity {
	for rest := s; ; {
		i := strings.IndexByte(rest, '"')
		if i < 0 {
			return 0
		}
		rest = rest[i+1:]
		i = strings.IndexByte(rest, '"')
		if i < 0 {
			return 0
		}
		name := rest[:i]
		rest = rest[i+1:]
		if !isLevelName(name) {
			continue
		}
		v := strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(v, ":") {
			continue
		}
		v = strings.TrimLeft(v[1:], " \t")
		if strings.HasPrefix(v, `"`) {
			v = v[1:]
			if end := strings.IndexByte(v, '"'); end >= 0 {
				if sev := levelOf(name, v[:end]); sev != 0 {
					return sev
				}
			}
			continue
		}
		if end := strings.IndexAny(v, ",} \t"); end > 0 {
			if sev := levelOf(name, v[:end]); sev != 0 {
				return sev
			}
		}
	}
}

func isLevelName(name string) bool {
	switch len(name) {
	case 3, 5, 8, 9, 13, 14:
		for _, n := range levelNames {
			if n == name {
				return true
			}
		}
	}
	return false
}

func logfmtSeverity(s string) kemi.Severity {
	for i := 0; ; {
		n := strings.IndexByte(s[i:], '=')
		if n < 0 {
			return 0
		}
		eq := i + n
		begin := strings.LastIndexAny(s[i:eq], " \t,;[(") + 1 + i
		i = eq + 1
		if !isLevelName(s[begin:eq]) {
			continue
		}
		v := strings.TrimPrefix(s[i:], `"`)
		end := strings.IndexAny(v, " \t,;])\"\n")
		if end < 0 {
			end = len(v)
		}
		if sev := levelOf(s[begin:eq], v[:end]); sev != 0 {
			return sev
		}
	}
}

// wordSeverity looks at the first words. What stands before a level is times, hosts, ids and the like: anything but a sentence.
func wordSeverity(s string) kemi.Severity {
	if line := strings.IndexByte(s, '\n'); line >= 0 {
		s = s[:line]
	}
	numbers := true // all words so far have no letters
	for n := 0; n < wordsBefore; n++ {
		s = strings.TrimLeft(s, " \t|")
		if s == "" {
			return 0
		}
		end := strings.IndexAny(s, " \t|")
		if end < 0 {
			end = len(s)
		}
		word := s[:end]
		s = s[end:]
		name := strings.Trim(word, "[]()<>{}:,;-*")
		marked := len(word) > len(name) && (word[0] == '[' || word[0] == '<' || word[0] == '(' || strings.HasSuffix(word, ":"))
		capitals, letters := true, false
		for i := range len(name) {
			c := name[i]
			letters = letters || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0x80
			capitals = capitals && c >= 'A' && c <= 'Z'
		}
		if !letters {
			continue
		}
		if len(name) > 1 && (capitals || marked && n < marksBefore) || len(name) == 1 && capitals && numbers && n > 0 {
			if len(name) > 16 {
				return 0
			}
			if name == "V" {
				return kemi.SeverityDebug
			}
			if sev := kemi.ParseSeverity(name); sev != 0 {
				return sev
			}
		}
		numbers = false
	}
	return 0
}
