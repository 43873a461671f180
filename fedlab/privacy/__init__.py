"""What can be PROVED: the ledger of mechanism events, accountants, guarantees."""

from fedlab.privacy.accountants import History as History
from fedlab.privacy.accountants import epsilon_of as epsilon_of
from fedlab.privacy.accountants import noise_multiplier_for as noise_multiplier_for
from fedlab.privacy.accountants import prv_epsilon as prv_epsilon
from fedlab.privacy.accountants import rdp_epsilon as rdp_epsilon
from fedlab.privacy.guarantee import Assumption as Assumption
from fedlab.privacy.guarantee import Guarantee as Guarantee
from fedlab.privacy.ledger import Event as Event
from fedlab.privacy.ledger import Ledger as Ledger
from fedlab.privacy.second_opinion import history_of as history_of
