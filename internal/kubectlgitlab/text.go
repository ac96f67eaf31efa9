package kubectlgitlab

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// plain is a terminal that gets text alone: what GitLab's users choose must not move the cursor.
type plain struct{ w io.Writer }

func (p plain) Write(b []byte) (int, error) {
	text := strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, string(b))
	if _, err := io.WriteString(p.w, text); err != nil {
		return 0, err
	}
	return len(b), nil
}

// table writes rows with columns of equal width; an empty cell is a dash.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if cell == "" {
				cell = "-"
			}
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, strings.Join(strings.Fields(cell), " "))
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// moment says when something is, and how far that is from now.
func moment(at, now time.Time) string {
	return at.Local().Format("2006-01-02 15:04 MST") + ", " + distance(at.Sub(now))
}

func distance(d time.Duration) string {
	past := d < 0
	d = d.Abs()
	n, unit := int(d.Round(time.Second)/time.Second), "second"
	switch {
	case d >= 48*time.Hour:
		n, unit = int(d/(24*time.Hour)), "day"
	case d >= 2*time.Hour:
		n, unit = int(d/time.Hour), "hour"
	case d >= 2*time.Minute:
		n, unit = int(d/time.Minute), "minute"
	}
	if n != 1 {
		unit += "s"
	}
	if past {
		return fmt.Sprintf("%d %s ago", n, unit)
	}
	return fmt.Sprintf("in %d %s", n, unit)
}

// day says the last day of something that ends with a day.
func day(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}
