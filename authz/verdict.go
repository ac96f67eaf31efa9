package authz

import "fmt"

// Verdict is the answer to the question whether something is allowed.
type Verdict uint8

// The verdicts, from the weakest to the strongest.
const (
	No Verdict = iota
	Unknown
	Yes
)

var verdictNames = [...]string{No: "no", Unknown: "unknown", Yes: "yes"}

// String returns "yes", "no" or "unknown".
func (v Verdict) String() string {
	if int(v) < len(verdictNames) {
		return verdictNames[v]
	}
	return fmt.Sprintf("verdict %d", v)
}

// MarshalText is for JSON.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (v *Verdict) UnmarshalText(text []byte) error {
	for i, name := range verdictNames {
		if name == string(text) {
			*v = Verdict(i)
			return nil
		}
	}
	return fmt.Errorf("reading a verdict: want yes, no or unknown, not %q", text)
}
