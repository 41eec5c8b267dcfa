package tail

import (
	"strings"

	"kemi"
)

// severityWithin is how far into a line its severity is looked for.
const severityWithin = 256

// severityKeys are what stands before a severity in JSON and logfmt.
var severityKeys = []string{`level":`, `severity":`, `lvl":`, `level=`, `severity=`, `lvl=`}

// severityOf guesses the severity of a line: what a field named level says, or else the first word in capitals that is the
// name of one. It is 0 where the line says none.
func severityOf(line string) kemi.Severity {
	line = line[:min(len(line), severityWithin)]
	for _, k := range severityKeys {
		for rest := line; ; {
			i := strings.Index(rest, k)
			if i < 0 {
				break
			}
			before := byte(' ')
			if i > 0 {
				before = rest[i-1]
			}
			rest = strings.TrimLeft(rest[i+len(k):], ` "'`)
			if isLetter(before) {
				continue
			}
			n := 0
			for n < len(rest) && isLetter(rest[n]) {
				n++
			}
			if s := kemi.ParseSeverity(rest[:n]); s != 0 {
				return s
			}
		}
	}
	for i := 0; i < len(line); {
		if !isLetter(line[i]) {
			i++
			continue
		}
		j, upper := i, true
		for j < len(line) && isLetter(line[j]) {
			upper = upper && line[j] < 'a'
			j++
		}
		if upper && j-i >= 3 && j-i <= 13 {
			if s := kemi.ParseSeverity(line[i:j]); s != 0 {
				return s
			}
		}
		i = j
	}
	return 0
}

func isLetter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}
