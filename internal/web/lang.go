package web

import (
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed lang/*.json
var langFiles embed.FS

// languages are those of the page: lang/NAME.json has their texts.
var languages = []string{"en", "de"}

// languageTime is how long a browser keeps the choice.
const languageTime = 365 * 24 * time.Hour

// texts are those of one language, by key. A text is plain; its arguments are %s, %d or %[1]s.
type texts map[string]string

func loadTexts() (map[string]texts, error) {
	out := map[string]texts{}
	for _, lang := range languages {
		data, err := langFiles.ReadFile("lang/" + lang + ".json")
		if err != nil {
			return nil, fmt.Errorf("reading the texts: %w", err)
		}
		var all texts
		if err := json.Unmarshal(data, &all); err != nil {
			return nil, fmt.Errorf("reading the texts of %s: %w", lang, err)
		}
		out[lang] = all
	}
	return out, nil
}

// get returns a text with its arguments.
func (t texts) get(key string, args ...any) (string, error) {
	text, ok := t[key]
	if !ok {
		return "", fmt.Errorf("there is no text %q", key)
	}
	if len(args) == 0 {
		return text, nil
	}
	return fmt.Sprintf(text, args...), nil
}

// or returns a key if there is a text for it, else another one: codes of others may be newer than our words.
func (t texts) or(key, otherwise string) string {
	if _, ok := t[key]; ok {
		return key
	}
	return otherwise
}

// rich is get with what stands between backticks in the text set as code; the arguments are escaped as all else.
func (t texts) rich(key string, args ...any) (template.HTML, error) {
	text, ok := t[key]
	if !ok {
		return "", fmt.Errorf("there is no text %q", key)
	}
	text = template.HTMLEscapeString(text)
	parts := strings.Split(text, "`")
	for i := 1; i < len(parts); i += 2 {
		parts[i] = "<code>" + parts[i] + "</code>"
	}
	text = strings.Join(parts, "")
	if len(args) > 0 {
		escaped := make([]any, len(args))
		for i, a := range args {
			escaped[i] = a
			if s, ok := a.(string); ok {
				escaped[i] = template.HTMLEscapeString(s)
			}
		}
		text = fmt.Sprintf(text, escaped...)
	}
	return template.HTML(text), nil //nolint:gosec // our own text, and escaped arguments
}

// language is the chosen one, else the first that the browser asks for and that there is, else the configured one.
func (s *Site) language(r *http.Request) string {
	if c, err := r.Cookie(languageCookie); err == nil && slices.Contains(languages, c.Value) {
		return c.Value
	}
	return preferred(r.Header.Get("Accept-Language"), s.o.Language)
}

// preferred reads Accept-Language (RFC 9110, 12.5.4).
func preferred(header, otherwise string) string {
	best, most := otherwise, 0.0
	if len(header) > 1000 {
		return otherwise
	}
	for part := range strings.SplitSeq(header, ",") {
		tag, params, _ := strings.Cut(part, ";")
		q := 1.0
		if value, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				continue
			}
			q = v
		}
		name, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(tag)), "-")
		if q > most && slices.Contains(languages, name) {
			best, most = name, q
		}
	}
	return best
}

// chooseLanguage keeps a choice and goes back. It changes nothing but in which language this browser is answered, so it is a link.
func (s *Site) chooseLanguage(w http.ResponseWriter, r *http.Request, v *visit) {
	lang := r.PathValue("language")
	if !slices.Contains(languages, lang) {
		s.notFound(w, r, v)
		return
	}
	setCookie(w, languageCookie, lang, languageTime)
	http.Redirect(w, r, localPath(r.URL.Query().Get("to")), http.StatusSeeOther) //nolint:gosec // localPath leads nowhere else
}
