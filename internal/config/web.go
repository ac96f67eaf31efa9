package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// languages are those that the page speaks.
var languages = []string{"en", "de"}

func (w Web) validate(f *faults, all *Config) {
	f.add(!slices.Contains(languages, w.Language), "web.language", "want one of %s, not %q", strings.Join(languages, ", "), w.Language)
	f.add(w.AdminGroup < 0, "web.adminGroup", "%d is not a group id", w.AdminGroup)
	if w.ClientID == "" {
		f.add((w.ClientSecretFile != "" || w.SessionKeyFile != "") && f.known("web.clientID"), "web.clientID", "is missing: the application id that people sign in to the page with")
		w.validateURL(f)
		return
	}
	f.add(all.Listeners.Web.Address == "" && f.known("listeners.web"), "listeners.web.address", "is missing: the page needs a port")
	f.add(w.URL == "", "web.url", "is missing: the URL that browsers reach the page by, e.g. https://icc.example.com")
	w.validateURL(f)
	f.add(w.ClientSecretFile == "", "web.clientSecretFile", "is missing: the file with the secret of the OAuth application")
	f.add(w.SessionKeyFile == "", "web.sessionKeyFile", "is missing: the file with the key of sessions; make one by: openssl rand -base64 32")
	const why = "%q is %s already: the page needs an OAuth application of its own, else its tokens would be good for kubectl"
	audience := func(path, other string) {
		f.add(other == w.ClientID && f.known(path), "web.clientID", why, w.ClientID, path)
	}
	for i, id := range all.Authn.ClientIDs {
		audience(fmt.Sprintf("authn.clientIDs[%d]", i), id)
	}
	for i, id := range all.Authn.APIAudiences {
		audience(fmt.Sprintf("authn.apiAudiences[%d]", i), id)
	}
	if all.Authn.CI != nil {
		audience("authn.ci.audience", all.Authn.CI.Audience)
	}
}

// validateURL demands an origin alone: cookies of the page hold for a whole host, and browsers keep secure ones from http.
func (w Web) validateURL(f *faults) {
	if w.URL == "" {
		return
	}
	u, err := url.Parse(w.URL)
	bad := err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != ""
	f.add(bad, "web.url", "want https://host[:port] without a path or a slash at the end, not %q", redacted(w.URL))
}
