package tsdexp

import (
	"regexp"
	"strings"

	"kemi/sauron/tsdhttp"
)

// Call is a function of gexp with its arguments.
type Call struct {
	name    string
	fn      function
	inputs  []input
	literal []string // arguments that are neither calls nor queries
}

// input is a series argument: another call, or a query by its number.
type input struct {
	call  *Call
	query int
}

var callBegins = regexp.MustCompile(`^([A-Za-z][A-Za-z0-9_]*)\s*\(`)

// ParseCall reads function(argument, …). An argument is a call, a query in the form of the parameter m, or a literal. Queries are added to
// queries, and are known by their number there.
func ParseCall(s string, queries *[]string) (*Call, error) {
	if len(s) > maxLength {
		return nil, tsdhttp.Bad("Failed to parse "+tsdhttp.Clip(s), "the expression is longer than can be read")
	}
	return parseCall(s, strings.TrimSpace(s), queries, 0)
}

func parseCall(whole, s string, queries *[]string, depth int) (*Call, error) {
	fail := func(why string) (*Call, error) {
		return nil, tsdhttp.Bad("Failed to parse "+tsdhttp.Clip(whole), why)
	}
	if depth > maxDepth {
		return fail("it nests too deep")
	}
	m := callBegins.FindStringSubmatch(s)
	if m == nil {
		return fail(tsdhttp.Clip(s) + ": must be function(argument, …)")
	}
	inner, ok := strings.CutSuffix(s[len(m[0]):], ")")
	args, balanced := split(inner)
	if !ok || !balanced {
		return fail(tsdhttp.Clip(s) + ": parentheses do not match")
	}
	c := &Call{name: m[1]}
	if c.fn, ok = functions[c.name]; !ok {
		return nil, tsdhttp.Bad("Function "+tsdhttp.Clip(c.name)+" has not been implemented", "there are "+strings.Join(functionNames(), ", "))
	}
	for _, a := range args {
		switch a = strings.TrimSpace(a); {
		case a == "":
			return fail(tsdhttp.Clip(s) + ": an argument is missing")
		case callBegins.MatchString(a):
			sub, err := parseCall(whole, a, queries, depth+1)
			if err != nil {
				return nil, err
			}
			c.inputs = append(c.inputs, input{call: sub})
		case strings.Contains(a, ":"):
			c.inputs = append(c.inputs, input{query: len(*queries)})
			*queries = append(*queries, a)
		default:
			c.literal = append(c.literal, a)
		}
	}
	return c, nil
}

// split splits at commas outside of brackets; false if brackets do not match.
func split(s string) (parts []string, balanced bool) {
	depth, from := 0, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '(', '{', '[':
			depth++
		case ')', '}', ']':
			if depth--; depth < 0 {
				return nil, false
			}
		case ',':
			if depth == 0 {
				parts = append(parts, s[from:i])
				from = i + 1
			}
		}
	}
	return append(parts, s[from:]), depth == 0
}
