package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed static
var staticFiles embed.FS

// pages are the templates, by language and name.
type pages map[string]map[string]*template.Template

// shell is what the layout shows; a page's own data is in Data.
type shell struct {
	Lang      string
	Page      string // name of its template
	Path      string
	Here      string // path with query, to come back to
	Languages []string
	User      *session // nil: not signed in
	CSRF      string
	Nav       []navEntry
	GitLab    string // its URL
	Data      any
}

type navEntry struct {
	Path, Text string
	Current    bool
	admin      bool
}

// frame are the templates that all pages share: the layout and the parts that pages are made of.
var frame = []string{"templates/layout.html", "templates/parts.html", "templates/parts_admin.html"}

// loadPages reads all templates in all languages. A page is a file that defines "title" and "content".
func loadPages(assets map[string]asset) (pages, error) {
	names, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("reading the templates: %w", err)
	}
	texts, err := loadTexts()
	if err != nil {
		return nil, err
	}
	out := pages{}
	for _, lang := range languages {
		out[lang] = map[string]*template.Template{}
		base, err := template.New("").Funcs(funcs(lang, texts[lang], assets)).ParseFS(templateFiles, frame...)
		if err != nil {
			return nil, fmt.Errorf("reading the templates: %w", err)
		}
		for _, file := range names {
			name := strings.TrimSuffix(path.Base(file), ".html")
			t, err := base.Clone()
			if err == nil {
				t, err = t.ParseFS(templateFiles, file)
			}
			if err != nil {
				return nil, fmt.Errorf("reading the templates: %w", err)
			}
			out[lang][name] = t
		}
	}
	return out, nil
}

// funcs are what templates call.
func funcs(lang string, texts texts, assets map[string]asset) template.FuncMap {
	return template.FuncMap{
		"t":  func(key string, args ...any) (string, error) { return texts.get(key, args...) },
		"tr": func(key string, args ...any) (template.HTML, error) { return texts.rich(key, args...) },
		"has": func(key string) bool {
			_, ok := texts[key]
			return ok
		},
		"args":     func(args ...any) []any { return args },
		"date":     func(at any) string { return formatTime(lang, at, false) },
		"datetime": func(at any) string { return formatTime(lang, at, true) },
		"iso": func(at any) string {
			if t, ok := moment(at); ok {
				return t.UTC().Format(time.RFC3339)
			}
			return ""
		},
		"asset":    func(name string) string { return "/static/" + name + "?v=" + assets[name].print },
		"dict":     dict,
		"statekey": func(state string) string { return texts.or("state."+state, "state.unknown") },
		"cikey":    func(ci *webapi.CI) string { return texts.or("ci.outcome."+ci.Outcome, "ci.outcome.unknown") },
		"cikind":   func(ci *webapi.CI) string { return ciKind(ci.Outcome) },
		"join":     func(list []string) string { return strings.Join(list, ", ") },
		"ticks":    ticks,
		"verbkey":  func(verb string) string { return texts.or("why.verb."+verb, "why.verb") },
		"causekey": func(cause string) string { return "changes.cause." + causeOf(cause) },
	}
}

// ticks sets what stands between backticks as code, in a text that is not ours to translate.
func ticks(text string) template.HTML {
	parts := strings.Split(template.HTMLEscapeString(text), "`")
	for i := 1; i < len(parts)-1; i += 2 {
		parts[i] = "<code>" + parts[i] + "</code>"
	}
	return template.HTML(strings.Join(parts, "")) //nolint:gosec // all of it is escaped
}

// dict makes the argument of a template out of names and values.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, errors.New("dict: a name without a value")
	}
	out := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("dict: %v is no name", pairs[i])
		}
		out[name] = pairs[i+1]
	}
	return out, nil
}

// moment takes a time or a pointer to one; false: there is none.
func moment(at any) (time.Time, bool) {
	switch t := at.(type) {
	case time.Time:
		return t, !t.IsZero()
	case *time.Time:
		if t != nil {
			return *t, !t.IsZero()
		}
	}
	return time.Time{}, false
}

var monthsOf = map[string][]string{
	"en": {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"},
	"de": {"Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November", "Dezember"},
}

// formatTime writes a day, or a moment in UTC, as the language does.
func formatTime(lang string, at any, clock bool) string {
	t, ok := moment(at)
	if !ok {
		return ""
	}
	t = t.UTC()
	dot := ""
	if lang == "de" {
		dot = "."
	}
	text := fmt.Sprintf("%d%s %s %d", t.Day(), dot, monthsOf[lang][t.Month()-1], t.Year())
	if clock {
		text += t.Format(", 15:04") + " UTC"
	}
	return text
}

// asset is a file that browsers may keep.
type asset struct {
	data        []byte
	print, kind string
}

func loadAssets() (map[string]asset, error) {
	entries, err := staticFiles.ReadDir("static")
	if err != nil {
		return nil, fmt.Errorf("reading the styles: %w", err)
	}
	out := map[string]asset{}
	for _, e := range entries {
		data, err := staticFiles.ReadFile("static/" + e.Name())
		if err != nil {
			return nil, fmt.Errorf("reading the styles: %w", err)
		}
		sum := sha256.Sum256(data)
		out[e.Name()] = asset{data: data, print: hex.EncodeToString(sum[:8]), kind: mime.TypeByExtension(path.Ext(e.Name()))}
	}
	return out, nil
}

// static serves styles, script and icon. Their addresses carry a fingerprint, so browsers keep them.
func (s *Site) static(w http.ResponseWriter, r *http.Request) {
	s.setHeaders(w.Header())
	a, ok := s.assets[r.PathValue("file")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.URL.Query().Get("v") == a.print {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	w.Header().Set("Content-Type", a.kind)
	_, _ = w.Write(a.data) // the caller is gone if this fails
}
