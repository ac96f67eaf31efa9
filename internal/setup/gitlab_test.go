package setup

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestWhatGitLabSays: version, owner, scopes and end of each token, a warning where they will not do, and never a token.
func TestWhatGitLabSays(t *testing.T) {
	for name, c := range map[string]struct {
		version, self, user string
		want                []string
		warnings            int
	}{
		"good": {"19.1.0-ee", `{"scopes":["api"],"expires_at":null}`, `{"username":"root","is_admin":true}`, []string{"GitLab is 19.1.0-ee", "the token of root, an administrator, scopes api, has no end"}, 0},
		"old":  {"14.9.0", `{"scopes":["api"]}`, `{"username":"root","is_admin":true}`, []string{"GitLab is 14.9, and 15.0 is the oldest"}, 1},
		"weak": {
			"19.1.0", `{"scopes":["read_user"],"expires_at":"` + day(noon.AddDate(0, 0, 5)) + `"}`, `{"username":"bob"}`,
			[]string{"lacks the scope read_api", "lacks the scope api", "is not an administrator's: it is not shown private groups", "can't register the system hook", "make one that lasts", "ends on "},
			6,
		},
		"refused":    {"19.1.0", "401", `{}`, []string{"--read-token-file: what the token may do is not known: GitLab does not accept the token: it is mistyped, revoked or ended"}, 2},
		"unreadable": {"19.1.0", `no JSON`, `{}`, []string{"--read-token-file: what the token may do is not known", "--write-token-file: what the token may do is not known"}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var s *httptest.Server
			s = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch strings.ReplaceAll(r.URL.Path, "//", "/") {
				case "/.well-known/openid-configuration":
					fmt.Fprintf(w, `{"issuer":%q}`, s.URL)
				case "/api/v4/version":
					fmt.Fprintf(w, `{"version":%q}`, c.version)
				case "/api/v4/user":
					fmt.Fprint(w, c.user)
				default:
					if c.self == "401" {
						w.WriteHeader(http.StatusUnauthorized)
					}
					fmt.Fprint(w, c.self)
				}
			}))
			defer s.Close()
			f := folder{}
			f.add("integrator/gitlab-ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0)
			f.add("integrator/read-token", []byte("glpat-read\n"), 0)
			f.add("integrator/write-token", []byte("glpat-write\n"), 0)
			out := strings.Join(look(t.Context(), Answers{GitLab: s.URL}, f, noon), "\n")
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("no %q in\n%s", w, out)
				}
			}
			if n := strings.Count(out, "warning: "); n != c.warnings || strings.Contains(out, "glpat") {
				t.Errorf("%d warnings, want %d:\n%s", n, c.warnings, out)
			}
			if other := look(t.Context(), Answers{GitLab: s.URL + "/"}, f, noon); !strings.Contains(other[0], "calls itself") {
				t.Errorf("another name: %q", other)
			}
		})
	}
}

// TestTokensAreSentToGitLabAlone: neither to where it redirects, nor to what calls itself something else.
func TestTokensAreSentToGitLabAlone(t *testing.T) {
	var sent []string
	note := func(r *http.Request) {
		if token := r.Header.Get("PRIVATE-TOKEN"); token != "" {
			sent = append(sent, r.Host+r.URL.Path)
		}
	}
	var elsewhere, s *httptest.Server
	elsewhere = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { note(r) }))
	defer elsewhere.Close()
	issuer := ""
	s = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
			fmt.Fprintf(w, `{"issuer":%q}`, issuer)
			return
		}
		note(r)
		http.Redirect(w, r, elsewhere.URL+"/login", http.StatusFound)
	}))
	defer s.Close()
	f := folder{}
	f.add("integrator/gitlab-ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0)
	f.add("integrator/read-token", []byte("glpat-read\n"), 0)
	issuer = "https://gitlab.example.com"
	if out := look(t.Context(), Answers{GitLab: s.URL}, f, noon); len(sent) > 0 {
		t.Errorf("another issuer got a token: %v\n%s", sent, strings.Join(out, "\n"))
	}
	issuer = s.URL
	out := look(t.Context(), Answers{GitLab: s.URL}, f, noon)
	for _, to := range sent {
		if !strings.HasPrefix(to, strings.TrimPrefix(s.URL, "https://")) {
			t.Errorf("%s got a token\n%s", to, strings.Join(out, "\n"))
		}
	}
	if len(sent) == 0 {
		t.Error("GitLab got no token: this shows nothing")
	}
}
