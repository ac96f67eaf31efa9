package runner

import (
	"fmt"
	"regexp"
	"strings"
)

var token = regexp.MustCompile(`^\s*(?:(&&|\|\||==|!=|=~|!~|\(|\))|(\$[a-zA-Z_][a-zA-Z0-9_]*)|"([^"]*)"|'([^']*)'|(` + patternText + `)|(null))`)

// patternText is Lexeme::Pattern's form (lib/gitlab/ci/pipeline/expression/lexeme/pattern.rb): at least two characters.
const patternText = `/(?:[^/]|\\/)+[^\\]/[ismU]*`

var wholePattern = regexp.MustCompile(`^` + patternText + `$`)

// compile reads /…/ and its flags; false = not of that form, or no RE2.
func compile(text string) (*regexp.Regexp, bool) {
	if !wholePattern.MatchString(text) {
		return nil, false
	}
	end := strings.LastIndex(text, "/")
	expr := strings.ReplaceAll(text[1:end], `\/`, `/`)
	if flags := text[end+1:]; flags != "" {
		expr = "(?" + flags + ")" + expr
	}
	re, err := regexp.Compile(expr)
	return re, err == nil
}

// condition is `rules:if` (doc/ci/jobs/job_rules.md): variables, texts and null compared with == != =~ !~, joined by && and
// ||, of which && binds tighter, and parentheses.
type condition struct {
	text   string
	rest   string
	lookup func(string) (string, bool)
}

type operand struct {
	text    string
	present bool
	pattern *regexp.Regexp
}

func evaluate(text string, lookup func(string) (string, bool)) (bool, error) {
	if text == "" {
		return true, nil
	}
	c := &condition{text: text, rest: text, lookup: lookup}
	holds, err := c.or()
	if err == nil && strings.TrimSpace(c.rest) != "" {
		err = c.invalid()
	}
	return holds, err
}

func (c *condition) invalid() error {
	return fmt.Errorf("reading .gitlab-ci.yml: rules: invalid expression syntax: %s", c.text)
}

// take consumes the next token if it is one of these.
func (c *condition) take(operators ...string) string {
	m := token.FindStringSubmatch(c.rest)
	if m == nil || m[1] == "" {
		return ""
	}
	for _, o := range operators {
		if m[1] == o {
			c.rest = c.rest[len(m[0]):]
			return o
		}
	}
	return ""
}

func (c *condition) or() (bool, error) {
	holds, err := c.and()
	for err == nil && c.take("||") != "" {
		var right bool
		right, err = c.and()
		holds = holds || right
	}
	return holds, err
}

func (c *condition) and() (bool, error) {
	holds, err := c.comparison()
	for err == nil && c.take("&&") != "" {
		var right bool
		right, err = c.comparison()
		holds = holds && right
	}
	return holds, err
}

func (c *condition) comparison() (bool, error) {
	if c.take("(") != "" {
		holds, err := c.or()
		if err == nil && c.take(")") == "" {
			err = c.invalid()
		}
		return holds, err
	}
	left, err := c.operand()
	if err != nil {
		return false, err
	}
	operator := c.take("==", "!=", "=~", "!~")
	if operator == "" {
		return left.present && left.text != "", nil
	}
	right, err := c.operand()
	if err != nil {
		return false, err
	}
	switch operator {
	case "==", "!=":
		equal := left.present == right.present && left.text == right.text
		return equal == (operator == "=="), nil
	default:
		return right.matches(left) == (operator == "=~"), nil
	}
}

// matches is the right side of =~. A text, of a variable or in quotes, is a pattern if it has the form of one; of any other it
// is asked, against all expectation, whether it contains the left side (doc/ci/jobs/job_rules.md, "Unexpected behavior").
func (o operand) matches(left operand) bool {
	pattern, ok := o.pattern, o.pattern != nil
	if !ok {
		pattern, ok = compile(o.text)
	}
	switch {
	case ok:
		return left.present && pattern.MatchString(left.text)
	case !o.present:
		return false
	default:
		return strings.Contains(o.text, left.text)
	}
}

func (c *condition) operand() (operand, error) {
	m := token.FindStringSubmatch(c.rest)
	if m == nil || m[1] != "" {
		return operand{}, c.invalid()
	}
	c.rest = c.rest[len(m[0]):]
	switch {
	case m[2] != "":
		text, ok := c.lookup(m[2][1:])
		return operand{text: text, present: ok}, nil
	case m[5] != "":
		re, ok := compile(m[5])
		if !ok {
			return operand{}, c.invalid()
		}
		return operand{pattern: re}, nil
	case m[6] != "":
		return operand{}, nil
	default:
		return operand{text: m[3] + m[4], present: true}, nil
	}
}
