package authn

import "strings"

// gitlabTokens are the kinds of GitLab's tokens that are no ID tokens, by their prefixes. Source: GitLab's documentation,
// "GitLab token overview", token prefixes (19).
var gitlabTokens = []struct{ prefix, what string }{
	{"glcbt-", "the CI_JOB_TOKEN of a job"}, // a JWT behind its prefix
	{"glpat-", "a personal, project or group access token"},
	{"gloas-", "the secret of an OAuth application"},
	{"gldt-", "a deploy token"},
	{"glrt-", "a runner's authentication token"},
	{"glrtr-", "a runner's authentication token"},
	{"GR1348941", "a runner's registration token"},
	{"glptt-", "a pipeline trigger token"},
	{"glft-", "a feed token"},
	{"glimt-", "a token for incoming mail"},
	{"glagent-", "the token of a GitLab agent for Kubernetes"},
	{"glwt-", "the token of a workspace"},
	{"glsoat-", "a SCIM token"},
	{"glffct-", "the token of a client of feature flags"},
}

// maxInstancePrefix is where the prefix of a kind is looked for at most: an instance may put a prefix of its own, and a
// hyphen, before it ("instance token prefix" in GitLab's administration).
const maxInstancePrefix = 64

// gitlabToken returns the refusal of a token that carries the prefix of another kind of GitLab's tokens, nil for any other.
// It is asked about what is no JWT only, so that no ID token is ever judged by what happens to stand in it.
func gitlabToken(token string) *DeniedError {
	head := token[:min(len(token), maxInstancePrefix)]
	for _, kind := range gitlabTokens {
		if strings.HasPrefix(head, kind.prefix) || strings.Contains(head, "-"+kind.prefix) {
			return &DeniedError{Code: CodeNotIDToken, Detail: "the token is " + kind.what + ", not an ID token"}
		}
	}
	return nil
}

// notJWT says of a token that is no JWT what it seems to be.
func notJWT(token string) error {
	if other := gitlabToken(token); other != nil {
		return other
	}
	switch {
	case strings.HasPrefix(token, `eyJ`) && strings.Count(token, ".") < 2 && alphabet(token, base64URL+"."): // eyJ is {" in base64
		return &notMineError{CodeJWTCutOff}
	case len(token) == 64 && alphabet(token, "0123456789abcdef"):
		return &notMineError{CodeHexToken}
	default:
		return &notMineError{CodeNotJWT}
	}
}

const base64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// alphabet reports whether s consists of the letters alone.
func alphabet(s, letters string) bool {
	for i := range len(s) {
		if strings.IndexByte(letters, s[i]) < 0 {
			return false
		}
	}
	return true
}
