"""What a served model saw, what it said, and what turned out to be true: records of it, and where they are kept.

Importing this imports neither torch nor pandas.
"""

from labline.feedback.identity import feedback_key, issued, new_id
from labline.feedback.records import Label, Prediction, Role
from labline.feedback.store import Counts, FeedbackStore

__all__ = ["Counts", "FeedbackStore", "Label", "Prediction", "Role", "feedback_key", "issued", "new_id"]
