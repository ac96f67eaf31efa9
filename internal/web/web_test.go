package web

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
)

var verbs = regexp.MustCompile(`%(\[\d+\])?[a-z]`)

// TestTexts: each language has each text, with the same arguments, and nothing that no page uses.
func TestTexts(t *testing.T) {
	all, err := loadTexts()
	if err != nil {
		t.Fatal(err)
	}
	first := all[languages[0]]
	for _, lang := range languages[1:] {
		for key, text := range first {
			other, ok := all[lang][key]
			if !ok || other == "" || text == "" {
				t.Errorf("%s: %q is missing", lang, key)
			}
			a, b := verbs.FindAllString(text, -1), verbs.FindAllString(other, -1)
			slices.Sort(a)
			slices.Sort(b)
			if !slices.Equal(a, b) || strings.Count(text, "`") != strings.Count(other, "`") {
				t.Errorf("%s: %q has other arguments or other code: %q, %q", lang, key, text, other)
			}
		}
		for key := range all[lang] {
			if _, ok := first[key]; !ok {
				t.Errorf("%s: only there is %q", lang, key)
			}
		}
	}
	for _, lang := range languages {
		data, err := os.ReadFile("lang/" + lang + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var again strings.Builder
		e := json.NewEncoder(&again) // maps are written in order
		e.SetIndent("", " ")
		e.SetEscapeHTML(false)
		if err := e.Encode(all[lang]); err != nil || again.String() != string(data) {
			t.Errorf("lang/%s.json: keys are not in order, or stand twice, or the form is another one (%v)", lang, err)
		}
	}
}

// TestEveryTextIsUsed: what no template and no code names is in no file of texts, and what they name is there.
func TestEveryTextIsUsed(t *testing.T) {
	all, err := loadTexts()
	if err != nil {
		t.Fatal(err)
	}
	var used strings.Builder
	for _, pattern := range []string{"templates/*.html", "*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			used.Write(data)
		}
	}
	text := used.String()
	prefixes := []string{} // of keys that are made of two parts
	for _, m := range regexp.MustCompile(`\(?print "([a-z_.]+\.)"|"([a-z_.]+\.)"\s*\+`).FindAllStringSubmatch(text, -1) {
		prefixes = append(prefixes, m[1]+m[2])
	}
	for key := range all["en"] {
		made := slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(key, p) })
		if !made && !strings.Contains(text, `"`+key+`"`) {
			t.Errorf("nothing uses %q", key)
		}
	}
	for _, m := range regexp.MustCompile(`\bt(?:r)? "([a-z_.0-9A-Z]+)"`).FindAllStringSubmatch(text, -1) {
		if _, ok := all["en"][m[1]]; !ok {
			t.Errorf("there is no text %q", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?:problem|problemData\{Code:|d\.Code =)[^\n]*?"([a-z_]+)"`).FindAllStringSubmatch(text, -1) {
		if _, ok := all["en"]["problem."+m[1]+".title"]; !ok {
			t.Errorf("there are no words for the problem %q", m[1])
		}
	}
}

// TestEveryReasonHasWords: people can look up each code that a login can be refused with, once.
func TestEveryReasonHasWords(t *testing.T) {
	seen := map[authn.Code]int{}
	all, err := loadTexts()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range reasons {
		for _, c := range r.Codes {
			seen[c]++
		}
		for _, key := range []string{"reason." + r.Key + ".text", "reason." + r.Key + ".do", "refused.for." + r.For} {
			if all["en"][key] == "" {
				t.Errorf("there is no text %q", key)
			}
		}
	}
	for _, r := range authn.Reasons() {
		want := 1
		if r.Outcome == authn.OutcomeOK || r.Outcome == authn.OutcomeMalformed { // kube-apiserver's own requests
			want = 0
		}
		if seen[r.Code] != want {
			t.Errorf("%s has %d explanations, want %d", r.Code, seen[r.Code], want)
		}
		delete(seen, r.Code)
	}
	for c := range seen {
		t.Errorf("%s is no code", c)
	}
}

// TestLanguageOfTheBrowser: RFC 9110, 12.5.4.
func TestLanguageOfTheBrowser(t *testing.T) {
	for header, want := range map[string]string{
		"": "en", "de": "de", "de-AT,de;q=0.9,en;q=0.8": "de", "fr,de;q=0.5": "de", "en;q=0.5,de;q=0.9": "de", "en,de": "en", "DE": "de", "fr": "en", "*": "en",
		"de;q=0": "en", "de;q=x,en": "en", "de;q=0.1": "de", strings.Repeat("de,", 1000): "en", ";;,=,": "en", "den": "en",
	} {
		if got := preferred(header, "en"); got != want {
			t.Errorf("%.40q: %s, want %s", header, got, want)
		}
	}
	if got := preferred("fr", "de"); got != "de" {
		t.Errorf("otherwise: %s", got)
	}
}

// FuzzLocalPath: wherever somebody is to be led, a browser stays on this site.
func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{
		"", "/", "/namespaces?q=a b&page=2", "//evil.example.com", "/\\evil.example.com", "\\\\evil.example.com", "https://evil.example.com", "/%2f/evil.example.com", "/%5cevil.example.com",
		"/\t/evil.example.com", "/\n//evil", "javascript:alert(1)", "/x#y", "/../..//evil", "/%09/evil", "/namespaces/../..", "/;@evil", "/.//evil.example.com", "/..//evil.example.com", "/x/..//evil.example.com", "?x", "/\x00", "/ü",
	} {
		f.Add(s)
	}
	base, err := url.Parse("https://icc.example.com")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, to string) {
		got := localPath(to)
		u, err := url.Parse(got)
		if err != nil || !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") || strings.ContainsAny(got, "\\\r\n\t ") || u.Host != "" || u.Scheme != "" {
			t.Fatalf("%q leads to %q (%v)", to, got, err)
		}
		if at := base.ResolveReference(u); at.Host != base.Host || at.Scheme != "https" {
			t.Fatalf("%q leads to %s", to, at)
		}
		if again := localPath(got); again != got && len(got) <= 512 {
			t.Fatalf("%q, then %q", got, again)
		}
	})
}

// TestRich: arguments and texts are escaped, and only backticks of the text make code.
func TestRich(t *testing.T) {
	all := texts{"k": "a `b` <c> %s %d"}
	got, err := all.rich("k", "`<i>`", 3)
	if err != nil || string(got) != "a <code>b</code> &lt;c&gt; `&lt;i&gt;` 3" {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := all.rich("x"); err == nil {
		t.Error("a text that is not there")
	}
}

// TestDates: as each language writes them.
func TestDates(t *testing.T) {
	at := time.Date(2026, 3, 1, 23, 30, 0, 0, time.FixedZone("", 3600))
	for lang, want := range map[string][2]string{"en": {"1 Mar 2026", "1 Mar 2026, 22:30 UTC"}, "de": {"1. März 2026", "1. März 2026, 22:30 UTC"}} {
		if got := [2]string{formatTime(lang, &at, false), formatTime(lang, at, true)}; got != want {
			t.Errorf("%s: %q", lang, got)
		}
	}
	if got := formatTime("en", (*time.Time)(nil), true) + formatTime("en", time.Time{}, true); got != "" {
		t.Errorf("none: %q", got)
	}
}

var colour = regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`)

// luminance is that of WCAG 2.2, "relative luminance".
func luminance(hex string) float64 {
	var sum float64
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, _ := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}

func contrast(a, b string) float64 {
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// TestContrast: WCAG 2.2 AA, in light and in dark: 4.5 for text (1.4.3), 3 for the edges of controls and the focus (1.4.11).
func TestContrast(t *testing.T) {
	css, err := fs.ReadFile(staticFiles, "static/app.css")
	if err != nil {
		t.Fatal(err)
	}
	light, dark, found := strings.Cut(string(css), "prefers-color-scheme: dark")
	if !found {
		t.Fatal("there is no dark scheme")
	}
	dark, _, _ = strings.Cut(dark, "}\n}")
	for name, part := range map[string]string{"light": light, "dark": dark} {
		c := map[string]string{}
		for _, m := range colour.FindAllStringSubmatch(part, -1) {
			c[m[1]] = m[2]
		}
		check := func(front, back string, least float64) {
			t.Helper()
			if c[front] == "" || c[back] == "" {
				t.Fatalf("%s: %s or %s is not set", name, front, back)
			}
			if got := contrast(c[front], c[back]); got < least {
				t.Errorf("%s: %s on %s has %.2f, want %.1f", name, front, back, got, least)
			}
		}
		for _, back := range []string{"ground", "surface", "raised"} {
			for _, front := range []string{"text", "muted", "link"} {
				check(front, back, 4.5)
			}
			check("focus", back, 3)
		}
		for _, back := range []string{"ground", "surface"} {
			check("field", back, 3)
			check("accent", back, 3)
			check("bad", back, 4.5)
			check("good", back, 4.5)
		}
		for _, kind := range []string{"good", "warn", "bad", "info"} {
			check(kind, kind+"-ground", 4.5)
		}
		check("on-accent", "accent", 4.5)
		check("on-accent", "accent-over", 4.5)
	}
	if got := fmt.Sprintf("%.1f", contrast("000000", "ffffff")); got != "21.0" {
		t.Errorf("black on white: %s", got)
	}
}
